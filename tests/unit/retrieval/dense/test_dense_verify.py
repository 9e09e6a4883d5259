"""Verifying a dense index: every byte of its files is compared with the digests kept at the build."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.convert import convert_index
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.retrieval.index import folder as index_folder
from calibadv.retrieval.index.folder import FILES
from calibadv.retrieval.index.verify import verify_index


@pytest.fixture(scope="module")
def built(corpus: Any, plain_encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A corpus folder with its indexes "flat" and "sq8", which keeps its vectors."""
    root = tmp_path_factory.mktemp("built")
    corpus.write(root / "documents.jsonl")
    import_corpus([root / "documents.jsonl"], out=root / "corpus")
    stored = Corpus.open(root / "corpus")
    for kind in ("flat", "sq8"):
        config = EncoderConfig(model=str(plain_encoder), device="cpu")
        build_dense(stored, index_dir=root / "corpus" / kind, encoder_config=config, kind=kind)
    return root / "corpus"


@pytest.fixture
def corpus_dir(built: Any, tmp_path: Path) -> Any:
    """A copy that a test may spoil."""
    return shutil.copytree(built, tmp_path / "corpus")


def flip_a_bit(path: Any) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def problems(checks: Any) -> Any:
    return {check.name: check.problem for check in checks if not check.ok}


@pytest.mark.parametrize(("kind", "num_files"), [("flat", 1), ("sq8", 2)])
def test_a_whole_index_passes_and_says_how_much_was_read(built: Any, kind: str, num_files: Any) -> None:
    seen = []
    checks = verify_index(built / kind, progress=lambda *told: seen.append(told))
    assert [check.name for check in checks] == ["corpus", "index", "vectors", "files", "encoder"]
    assert not problems(checks)
    assert f"{num_files} files, " in checks[3].figures
    size = sum(path.stat().st_size for path in (built / kind).glob("*.faiss"))
    assert seen[0] == ("reading the corpus", 300, 300)
    assert seen[-1] == (f"reading the files of {kind}", size, size)


@pytest.mark.parametrize(
    ("kind", "name"), [("flat", "vectors.faiss"), ("sq8", "vectors.faiss"), ("sq8", "index.faiss")]
)
def test_one_bit_in_the_middle_of_a_file_is_found(corpus_dir: Any, kind: str, name: str) -> None:
    flip_a_bit(corpus_dir / kind / name)
    found = problems(verify_index(corpus_dir / kind))
    assert found == {
        "files": f"{corpus_dir / kind}: the index is broken: {name} has changed; copy it again or build it again"
    }


def test_vectors_that_another_folder_keeps_are_compared_too(corpus_dir: Any) -> None:
    convert_index(corpus_dir / "flat", to="sq8", out=corpus_dir / "small")
    assert not problems(verify_index(corpus_dir / "small"))
    flip_a_bit(corpus_dir / "flat" / "vectors.faiss")
    assert "../flat/vectors.faiss has changed" in problems(verify_index(corpus_dir / "small"))["files"]


def test_opening_reads_no_file_for_its_digest(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_folder, "file_sha256", None)
    assert len(DenseRetriever.open(built / "sq8").search(["song"], 3)[0]) == 3


def test_an_index_without_its_digests_is_broken(corpus_dir: Any) -> None:
    (corpus_dir / "sq8" / FILES).unlink()
    assert "files.json" in problems(verify_index(corpus_dir / "sq8"))["files"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "does not list vectors.faiss"),
        ({"vectors.faiss": {"bytes": 1}}, "not a list of files"),
        ({"../../documents.jsonl": {"bytes": 1, "sha256": ""}}, "not a list of files"),
    ],
)
def test_a_list_of_other_files_is_refused(corpus_dir: Any, files: Any, message: str) -> None:
    (corpus_dir / "flat" / FILES).write_text(json.dumps(files))
    assert message in problems(verify_index(corpus_dir / "flat"))["files"]


def test_the_command_fails_for_what_changed(corpus_dir: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = corpus_dir / "flat"
    verify = ["index", "verify", str(folder)]
    assert main([*verify, "--json"]) == 0
    assert all(row["ok"] for row in json.loads(capsys.readouterr().out))
    flip_a_bit(folder / "vectors.faiss")
    assert main(verify) == 2
    captured = capsys.readouterr()
    assert "vectors.faiss has changed; copy it again or build it again" in captured.out
    assert "1 of 5 checks failed: files" in captured.err
