"""Converting: our indexes and FAISS files of others, without encoding again."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from calibadv.cli.main import main
from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.convert import convert_file, convert_index, open_origin
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.retrieval.dense.vector_file import VectorFile

QUERIES = ["ada wrote the song", "battle of the north"]


@pytest.fixture(scope="module")
def encoder(e5_encoder: Any) -> Any:
    return Encoder(EncoderConfig(model=str(e5_encoder), device="cpu"))


@pytest.fixture(scope="module")
def rows(corpus: Any, encoder: Any) -> Any:
    return encoder.encode_documents(list(corpus))


@pytest.fixture(scope="module")
def published(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """FAISS files as others publish them: e5_Flat.index and e5_HNSW64.index."""
    folder = tmp_path_factory.mktemp("published")
    flat, graph = faiss.IndexFlatIP(32), faiss.IndexHNSWFlat(32, 64, faiss.METRIC_INNER_PRODUCT)
    for index, name in ((flat, "e5_Flat.index"), (graph, "e5_HNSW64.index")):
        index.add(rows)
        faiss.write_index(index, str(folder / name))
    return folder


@pytest.fixture(scope="module")
def ours(corpus: Any, e5_encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ours") / "dense"
    build_dense(corpus, index_dir=folder, encoder_config=EncoderConfig(model=str(e5_encoder), device="cpu"))
    return folder


def ids(results: Any) -> Any:
    return [[hit.document.id for hit in hits] for hits in results]


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8", "hnsw", "ivf-sq8"])
def test_a_published_file_becomes_an_index_folder_of_any_kind(
    published: Any, corpus: Any, encoder: Any, ours: Any, tmp_path: Path, kind: str
) -> None:
    convert_index(
        published / "e5_Flat.index",
        to=kind,  # type: ignore[arg-type]
        out=tmp_path / "index",
        corpus=corpus,
        encoder=EncoderConfig(model=encoder.spec.model),
    )
    converted = DenseRetriever.open(tmp_path / "index", corpus=corpus, encoder=encoder)
    want = ids(DenseRetriever.open(ours, corpus=corpus, encoder=encoder).search(QUERIES, 5))
    got = ids(converted.search(QUERIES, 5))
    assert sum(len(set(a) & set(b)) for a, b in zip(got, want, strict=True)) >= 9
    assert ids(converted.search_exact(QUERIES, 5)) == want
    # The vectors stay in the published file.
    assert not (tmp_path / "index" / "vectors.faiss").exists()


@pytest.mark.parametrize("name", ["e5_Flat.index", "e5_HNSW64.index"])
def test_a_published_file_is_an_index_as_it_is(
    published: Any, corpus: Any, encoder: Any, ours: Any, tmp_path: Path, name: str
) -> None:
    spec = EncoderConfig(model=encoder.spec.model)
    convert_index(published / name, to="as-is", out=tmp_path / "index", corpus=corpus, encoder=spec)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["files.json", "manifest.json"]
    adopted = DenseRetriever.open(tmp_path / "index", corpus=corpus, encoder=encoder)
    want = ids(DenseRetriever.open(ours, corpus=corpus, encoder=encoder).search(QUERIES, 5))
    assert ids(adopted.search(QUERIES, 5)) == want
    assert adopted.index.parameters.kind == ("flat" if "Flat" in name else "hnsw")
    assert adopted.index.parameters.links in (0, 64)


def test_the_encoder_of_a_published_file_may_come_later(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = EncoderConfig(model="intfloat/tiny-e5")
    convert_index(published / "e5_Flat.index", to="as-is", out=tmp_path / "i", corpus=corpus, encoder=spec)
    assert "only its name and dimension are checked later" in caplog.text
    retriever = DenseRetriever.open(tmp_path / "i", corpus=corpus, encoder=Encoder(
        EncoderConfig(model=encoder.spec.model, max_length=512)
    ))  # fmt: skip
    assert len(retriever.search(QUERIES, 5)[0]) == 5


def test_a_graph_gives_back_the_vectors_it_was_made_of(published: Any, rows: Any) -> None:
    source = open_origin(published / "e5_HNSW64.index").source
    np.testing.assert_array_equal(source.read(100, 103), rows[100:103])
    assert len(source.read(290, 999)) == 10


def test_an_index_of_ours_is_converted_with_its_own_corpus_and_encoder(
    ours: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    convert_index(ours, to="sq8", out=tmp_path / "a", corpus=corpus)
    assert len(DenseRetriever.open(tmp_path / "a", corpus=corpus, encoder=encoder).search_exact(["king"], 3)[0]) == 3
    convert_index(ours, to="ivf-sq8", out=tmp_path / "b", corpus=corpus, keep="copy")
    assert VectorFile.open(tmp_path / "b" / "vectors.faiss").dtype == "float16"
    convert_index(ours, to="sq8", out=tmp_path / "c", corpus=corpus, keep="none")
    with pytest.raises(DataError, match="its vectors were not kept"):
        DenseRetriever.open(tmp_path / "c", corpus=corpus, encoder=encoder).search_exact(["king"], 3)


@pytest.mark.parametrize("kind", ["sq8", "ivf-sq8", "hnsw"])
def test_an_index_without_vectors_is_converted_from_its_codes_with_a_warning(
    ours: Any, corpus: Any, encoder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    convert_index(ours, to=kind, out=tmp_path / "a", corpus=corpus, keep="none")  # type: ignore[arg-type]
    convert_index(tmp_path / "a", to="fp16", out=tmp_path / "b", corpus=corpus, keep="copy")
    assert "made from its codes" in caplog.text
    converted = DenseRetriever.open(tmp_path / "b", corpus=corpus, encoder=encoder)
    want = ids(DenseRetriever.open(ours, corpus=corpus, encoder=encoder).search(QUERIES, 5))
    assert sum(len(set(a) & set(b)) for a, b in zip(ids(converted.search(QUERIES, 5)), want, strict=True)) >= 8


def test_a_file_alone_becomes_a_file(published: Any, rows: Any, tmp_path: Path) -> None:
    convert_file(published / "e5_Flat.index", to="sq8", out=tmp_path / "e5.sq8.index")
    index = faiss.read_index(str(tmp_path / "e5.sq8.index"))
    assert np.mean(index.search(rows, 1)[1][:, 0] == np.arange(300)) > 0.95
    with pytest.raises(ConfigError, match="exists; name another file"):
        convert_file(published / "e5_Flat.index", to="sq8", out=tmp_path / "e5.sq8.index")


def test_the_command_converts_files_and_folders(
    published: Any,
    corpus: Any,
    e5_encoder: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from calibadv.retrieval.corpus.importing import import_corpus

    monkeypatch.chdir(tmp_path)
    corpus.write(tmp_path / "corpus.jsonl")
    import_corpus([tmp_path / "corpus.jsonl"], out=tmp_path / "corpus")
    (tmp_path / "e5_Flat.index").write_bytes((published / "e5_Flat.index").read_bytes())
    assert main(["index", "convert", "e5_Flat.index", "--to", "sq8"]) == 0
    assert (tmp_path / "e5_Flat.sq8.index").exists()
    arguments = ["--corpus", "corpus", "--encoder", str(e5_encoder)]
    assert main(["index", "convert", "e5_Flat.index", "--to", "as-is", *arguments, "--out", "flat"]) == 0
    assert main(["index", "convert", "flat", "--memory", "15KiB"]) == 0
    assert "sq8 takes 9." in capsys.readouterr().out
    assert ids(DenseRetriever.open(tmp_path / "flat-sq8").search(QUERIES, 3)) == ids(
        DenseRetriever.open(tmp_path / "flat").search(QUERIES, 3)
    )
    assert main(["index", "convert", "e5_Flat.index", "--to", "as-is", *arguments]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main(["index", "convert", "e5_Flat.index", "--to", "sq8", "--out", "x", "--corpus", "corpus"]) == 2
    assert "name them (--corpus, --encoder)" in capsys.readouterr().err


def test_what_does_not_belong_together_is_refused(
    published: Any, corpus: Any, encoder: Any, plain_encoder: Any, new_encoder: Any, tmp_path: Path
) -> None:
    spec = EncoderConfig(model=encoder.spec.model)
    shorter = Corpus.from_documents(list(corpus)[:200])
    with pytest.raises(DataError, match="300 vectors, but the corpus has 200 documents"):
        convert_index(published / "e5_Flat.index", to="sq8", out=tmp_path / "a", corpus=shorter, encoder=spec)
    wide = EncoderConfig(model=str(new_encoder(tmp_path / "wide", hidden=48)))
    with pytest.raises(ConfigError, match="has dimension 48, the vectors have 32"):
        convert_index(published / "e5_Flat.index", to="sq8", out=tmp_path / "a", corpus=corpus, encoder=wide)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        convert_index(published / "e5_Flat.index", to="sq8", out=tmp_path / "full", corpus=corpus, encoder=spec)
    assert not (tmp_path / "a").exists()


def test_files_that_cannot_be_converted_say_why(rows: Any, tmp_path: Path) -> None:
    by_distance = faiss.IndexFlatL2(32)
    with_ids = faiss.IndexIDMap(faiss.IndexFlatIP(32))
    by_distance.add(rows)
    with_ids.add_with_ids(rows, np.arange(300)[::-1].copy())
    for index, message in ((by_distance, "only inner-product"), (with_ids, "ids of its own")):
        faiss.write_index(index, str(tmp_path / "f"))
        with pytest.raises(DataError, match=message):
            open_origin(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"text " * 50)
    with pytest.raises(DataError, match="not a FAISS index"):
        open_origin(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(DataError, match="not a FAISS index"):
        open_origin(tmp_path / "f")
    with pytest.raises(DataError, match="no such file or folder"):
        open_origin(tmp_path / "missing")


@pytest.mark.parametrize("name", ["e5_Flat.index", "e5_HNSW64.index"])
def test_a_published_file_that_breaks_off_is_refused_in_plain_words(published: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((published / name).read_bytes()[:30_000])
    with pytest.raises(DataError, match="or not a whole one") as refused:
        open_origin(tmp_path / name)
    assert "/project/" not in str(refused.value)
    assert "fetch or build it again" in str(refused.value)
