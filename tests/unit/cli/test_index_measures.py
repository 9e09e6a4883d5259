"""``calibadv index recall`` and ``audit``: their tables, their JSON, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.retrieval import ListRetriever
from calibadv.retrieval.corpus.importing import import_corpus

pytest.importorskip("tantivy")

TOWNS = [
    {"id": "1", "title": "Paris", "text": "Paris is the capital of France."},
    {"id": "2", "title": "Rome", "text": "Rome is the capital of Italy."},
    {"id": "3", "title": "Bern", "text": "Bern is where the Swiss government sits."},
]
QUESTIONS = [
    {"id": "q1", "question": "capital of France", "golden_answers": ["Paris"]},
    {"id": "q2", "question": "capital of Peru", "golden_answers": ["Lima"]},
    {
        "id": "q3",
        "question": "Swiss government",
        "golden_answers": ["Bern"],
        "metadata": {"supporting_titles": ["Bern", "Switzer\u001b[31mland"]},
    },
    {"id": "q4", "question": "Is Rome in Italy?", "golden_answers": ["yes"]},
]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def towns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write("towns.jsonl", TOWNS)
    write("geo.test.jsonl", QUESTIONS)
    write("more.jsonl", QUESTIONS[:1])
    import_corpus(["towns.jsonl"], out=Path("towns"))
    assert main(["index", "build", "towns"]) == 0
    capsys.readouterr()


def test_recall_is_a_table_with_a_row_per_data_set(towns: None, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--questions", "geo.test.jsonl", "more.jsonl"]
    assert main(["index", "recall", "towns/bm25", *files, "--k", "3,1"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "data set"
    assert [part for part in header.split() if "@" in part] == ["answer@1", "answer@3", "support@1", "support@3"]
    assert rows[0].split() == ["geo", "4", "3", "0.667", "0.667", "1", "0.000", "0.000"]
    assert [row.split()[0] for row in rows] == ["geo", "more", "all"]


def test_recall_as_json_has_the_index_and_the_files(towns: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "recall", "towns/bm25", "--questions", "geo.test.jsonl", "--k", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["index"]["method"] == "bm25"
    assert report["questions"] == ["geo.test.jsonl"]
    assert report["recall"]["geo"]["answers"] == {"2": pytest.approx(2 / 3)}


def test_a_running_server_is_measured_by_its_address(
    towns: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server(ListRetriever):
        def __init__(self, url: str) -> None:
            super().__init__([])
            self.url = url

        def wait_until_ready(self, timeout_s: float) -> None:
            assert timeout_s == 0

        def manifest(self) -> dict[str, Any]:
            return {"method": "remote", "urls": [self.url]}

        def close(self) -> None:
            closed.append(self.url)

    closed: list[str] = []
    monkeypatch.setattr("calibadv.runs.index_quality.RemoteRetriever", Server)
    assert main(["index", "recall", "http://127.0.0.1:8000", "--questions", "more.jsonl", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["index"]["urls"] == ["http://127.0.0.1:8000"]
    assert report["recall"]["more"]["answers"] == {"3": 0.0, "20": 0.0}
    assert closed == ["http://127.0.0.1:8000"]


def test_audit_names_what_the_corpus_lacks(towns: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "audit", "towns/bm25", "--questions", "geo.test.jsonl", "--k", "3"]) == 0
    out = capsys.readouterr().out
    row = out.splitlines()[2].split()
    assert row == ["geo", "4", "1", "3", "0.667", "0.667", "1", "0.000", "0.000", "1"]
    assert "geo: no document holds an answer to 1: q2" in out
    assert "geo: no article for 1: Switzer\N{REPLACEMENT CHARACTER}[31mland" in out
    assert "3 documents read" in out


def test_audit_as_json_lists_every_id(towns: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "audit", "towns/bm25", "--questions", "geo.test.jsonl", "more.jsonl", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["k"], report["num_documents"]) == (20, 3)
    assert report["coverage"]["geo"]["unanswerable"] == ["q2"]
    assert report["coverage"]["geo"]["missing_titles"] == {"q3": ["Switzer\u001b[31mland"]}
    assert report["coverage"]["all"]["num_unanswerable"] == 1
    assert len(report["corpus_sha256"]) == 64


@pytest.mark.parametrize("corpus", ["towns", "towns.jsonl"])
def test_audit_of_a_corpus_alone_needs_no_index(towns: None, capsys: pytest.CaptureFixture[str], corpus: str) -> None:
    assert main(["index", "audit", corpus, "--questions", "geo.test.jsonl", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["index"] is None
    assert report["coverage"]["geo"]["answer_in_corpus"] == pytest.approx(2 / 3)
    assert report["coverage"]["geo"]["answer_in_top_k"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recall", "towns/bm25", "--questions", "absent.jsonl"], "no such file"),
        (["recall", "absent", "--questions", "more.jsonl"], "no such folder"),
        (["recall", "towns", "--questions", "more.jsonl"], "is a corpus, not an index"),
        (["recall", "towns/bm25", "--questions", "more.jsonl", "more.jsonl"], "the same id"),
        (["recall", "towns/bm25", "--questions", "more.jsonl", "--exact", "-1"], "num_exact must be >= 0"),
        (["audit", "towns/bm25", "--questions", "more.jsonl", "--k", "3,20"], "Invalid value for --k"),
        (
            ["audit", "http://127.0.0.1:1", "--questions", "more.jsonl"],
            "the folder of the index or corpus, not http://127.0.0.1:1\n",
        ),
    ],
)
def test_mistakes_are_one_line(
    towns: None, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["index", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_an_address_where_nobody_answers_is_one_line(towns: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "recall", "http://127.0.0.1:9", "--questions", "more.jsonl"]) == 3
    assert "http://127.0.0.1:9 was not ready" in capsys.readouterr().err


@pytest.mark.parametrize("k", ["0", "x", "", "3,,4", "-1"])
def test_k_must_be_whole_numbers(towns: None, capsys: pytest.CaptureFixture[str], k: str) -> None:
    assert main(["index", "recall", "towns/bm25", "--questions", "more.jsonl", "--k", k]) == 2
    error = capsys.readouterr().err
    assert "ks must be" in error or "--k" in error
    assert error.count("\n") == 1
