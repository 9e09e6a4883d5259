"""Building: resumable, refuses what does not belong together, and the file of vectors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.vector_file import VectorFile, VectorWriter
from calibadv.retrieval.index.manifest import PROGRESS, IndexManifest


class StopHereError(Exception):
    pass


def stop_at(rows: Any) -> Any:
    """A progress callback that breaks the build off."""

    def progress(done: Any, total: Any) -> None:
        if done >= rows:
            raise StopHereError

    return progress


def noted(index_dir: Any) -> Any:
    """Rows that a build says it has finished."""
    path = index_dir / PROGRESS
    return json.loads(path.read_text())["done"] if path.exists() else 0


def config(folder: Any, **settings: Any) -> Any:
    return EncoderConfig(model=str(folder), device="cpu", **{"batch_size": 4, **settings})


def test_an_index_folder_holds_the_vectors_of_every_document(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    seen = []
    manifest = build_dense(
        corpus,
        index_dir=tmp_path / "dense",
        encoder_config=config(plain_encoder),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sorted(path.name for path in (tmp_path / "dense").iterdir()) == [
        "files.json",
        "manifest.json",
        "vectors.faiss",
    ]
    assert seen == [(done, 300) for done in range(0, 301, 4)]  # after every batch, not after every chunk of 64
    assert IndexManifest.read(tmp_path / "dense") == manifest
    assert manifest.corpus_sha256 == corpus.sha256
    assert manifest.parameters["encoder"]["pooling"] == "mean"
    vectors = VectorFile.open(tmp_path / "dense" / "vectors.faiss")
    want = Encoder(config(plain_encoder)).encode_documents(list(corpus))
    np.testing.assert_allclose(vectors.read(0, 300), want, atol=1e-6)
    assert faiss.read_index(str(vectors.path)).ntotal == 300


def test_a_stopped_build_continues_and_gives_the_same_bytes(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    build_dense(corpus, index_dir=tmp_path / "whole", encoder_config=config(plain_encoder))
    for rows in (64, 192, 300):
        with pytest.raises(StopHereError):
            build_dense(
                corpus, index_dir=tmp_path / "parts", encoder_config=config(plain_encoder), progress=stop_at(rows)
            )
        assert noted(tmp_path / "parts") == rows
        with (tmp_path / "parts" / "vectors.faiss").open("ab") as file:
            file.write(b"half a chunk that was never noted")
    seen = []
    build_dense(
        corpus,
        index_dir=tmp_path / "parts",
        encoder_config=config(plain_encoder),
        progress=lambda done, total: seen.append(done),
    )
    assert seen == [300]  # everything was encoded; only the index was missing
    whole, parts = (VectorFile.open(tmp_path / name / "vectors.faiss").path.read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert not (tmp_path / "parts" / PROGRESS).exists()


def test_a_killed_build_continues_where_it_was(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    corpus.write(tmp_path / "corpus.jsonl")
    program = """
import sys, time, pathlib
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.corpus.read import read_corpus
build_dense(
    read_corpus(sys.argv[1]),
    index_dir=pathlib.Path(sys.argv[2]),
    encoder_config=EncoderConfig(model=sys.argv[3], device="cpu", batch_size=4),
    kind="sq8",
    progress=lambda done, total: time.sleep(1),
)
"""
    out = tmp_path / "dense"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "corpus.jsonl"), str(out), str(plain_encoder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while noted(out) == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = noted(out)
    assert 0 < done < 300
    seen = []
    same = read_corpus(tmp_path / "corpus.jsonl")
    build_dense(
        same,
        index_dir=out,
        encoder_config=config(plain_encoder),
        kind="sq8",
        progress=lambda done, total: seen.append(done),
    )
    assert seen[0] == done
    build_dense(same, index_dir=tmp_path / "whole", encoder_config=config(plain_encoder), kind="sq8")
    for name in ("vectors.faiss", "index.faiss"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_encoder_corpus_or_setting_cannot_continue_a_build(
    corpus: Any, plain_encoder: Any, other_encoder: Any, documents_of: Any, tmp_path: Path
) -> None:
    out = tmp_path / "dense"
    with pytest.raises(StopHereError):
        build_dense(corpus, index_dir=out, encoder_config=config(plain_encoder), progress=stop_at(64))
    with pytest.raises(ConfigError, match=r"encoder\.fingerprint is .* not .*remove this one"):
        build_dense(corpus, index_dir=out, encoder_config=config(other_encoder))
    with pytest.raises(ConfigError, match=r"encoder\.max_length is 128, not 16"):
        build_dense(corpus, index_dir=out, encoder_config=config(plain_encoder, max_length=16))
    with pytest.raises(ConfigError, match="batch size is 4, not 8"):
        build_dense(corpus, index_dir=out, encoder_config=config(plain_encoder, batch_size=8))
    other = Corpus.from_documents(documents_of(300, seed=1))
    with pytest.raises(ConfigError, match="corpus_sha256"):
        build_dense(other, index_dir=out, encoder_config=config(plain_encoder))
    with pytest.raises(ConfigError, match="vectors is 'float32', not 'float16'"):
        build_dense(corpus, index_dir=out, encoder_config=config(plain_encoder), kind="sq8")
    build_dense(corpus, index_dir=out, encoder_config=config(plain_encoder))


def test_a_finished_a_foreign_and_a_busy_folder_are_refused(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty \(notes.txt\)"):
        build_dense(corpus, index_dir=tmp_path / "foreign", encoder_config=config(plain_encoder))

    def build_again(done: Any, total: Any) -> None:
        with pytest.raises(ConfigError, match="another build is writing there"):
            build_dense(corpus, index_dir=tmp_path / "dense", encoder_config=config(plain_encoder))

    build_dense(corpus, index_dir=tmp_path / "dense", encoder_config=config(plain_encoder), progress=build_again)
    with pytest.raises(ConfigError, match="holds a finished index"):
        build_dense(corpus, index_dir=tmp_path / "dense", encoder_config=config(plain_encoder))


def test_vectors_are_removed_on_request(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    manifest = build_dense(
        corpus, index_dir=tmp_path / "dense", encoder_config=config(plain_encoder), kind="sq8", keep_vectors=False
    )
    assert sorted(path.name for path in (tmp_path / "dense").iterdir()) == [
        "files.json",
        "index.faiss",
        "manifest.json",
    ]
    assert manifest.parameters["vectors"] is None


def test_kinds_that_do_not_fit_are_refused_before_anything_is_encoded(
    corpus: Any, plain_encoder: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="must be one of flat, fp16"):
        build_dense(corpus, index_dir=tmp_path / "a", encoder_config=config(plain_encoder), kind="annoy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs at least 1,024 documents, got 300; use flat"):
        build_dense(corpus, index_dir=tmp_path / "a", encoder_config=config(plain_encoder), kind="ivf-pq")
    with pytest.raises(ConfigError, match="stores its vectors as float32"):
        build_dense(corpus, index_dir=tmp_path / "a", encoder_config=config(plain_encoder), vectors="float16")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        build_dense(corpus, index_dir=tmp_path / "a", encoder_config=config(plain_encoder, dtype="float16"))
    assert not (tmp_path / "a").exists()


def test_an_index_that_is_not_finished_says_so_when_it_is_opened(
    corpus: Any, plain_encoder: Any, tmp_path: Path
) -> None:
    with pytest.raises(StopHereError):
        build_dense(corpus, index_dir=tmp_path / "dense", encoder_config=config(plain_encoder), progress=stop_at(64))
    with pytest.raises(DataError, match="not finished; the calibadv index build that began it continues"):
        IndexManifest.read(tmp_path / "dense")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_file_of_vectors_is_a_faiss_file_and_a_mapped_array(tmp_path: Path, dtype: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    path = tmp_path / "v"
    writer = VectorWriter(path, dtype=dtype, dimension=12)
    writer.write(rows[:30])
    writer.close()
    writer = VectorWriter(path, dtype=dtype, dimension=12, start=20)
    writer.write(rows[20:])
    writer.finish()
    file = VectorFile.open(path)
    assert (file.num_vectors, file.dimension, file.dtype) == (50, 12, dtype)
    np.testing.assert_array_equal(file.read(0, 50), rows.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(file.read(45, 99), rows[45:].astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(file.map()[[3, 1]], rows[[3, 1]].astype(dtype))
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    np.testing.assert_array_equal(index.reconstruct_n(0, 50), file.read(0, 50))


def test_truncated_and_foreign_files_are_no_files_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v"
    writer = VectorWriter(path, dtype="float32", dimension=4)
    writer.write(np.ones((10, 4), dtype=np.float32))
    writer.finish()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="FAISS cannot read it"):
        VectorFile.open(path)
    for content in (b"", b"IxFI", b"{" * 100, b"IxFI" + b"\xff" * 100, b"IwFl" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DataError):
            VectorFile.open(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="206 bytes, but its vectors take 205"):
        VectorFile.open(path)
    with pytest.raises(DataError, match="cannot read it"):
        VectorFile.open(tmp_path / "missing")


def test_values_that_are_not_finite_are_never_stored(tmp_path: Path) -> None:
    writer = VectorWriter(tmp_path / "v", dtype="float16", dimension=2)
    try:
        with pytest.raises(DataError, match="too large for float16, for a document in rows 0 to 1"):
            writer.write(np.array([[1, 2], [3, 1e6]], dtype=np.float32))
    finally:
        writer.close()
