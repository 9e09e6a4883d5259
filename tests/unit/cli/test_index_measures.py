"""``calibadv index recall`` and ``audit``: their tables, their JSON, and what they refuse."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tantivy")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx2")

import uvicorn

from calibadv.cli.main import main
from calibadv.retrieval.client.retriever import RemoteRetriever
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.open import open_index
from calibadv.retrieval.server import Backend, RetrievalService, ServerConfig, create_app

TOWNS: list[dict[str, Any]] = [
    {"id": "1", "title": "Paris", "text": "Paris is the capital of France."},
    {"id": "2", "title": "Rome", "text": "Rome is the capital of Italy."},
    {"id": "3", "title": "Bern", "text": "Bern is where the Swiss government sits."},
]
QUESTIONS: list[dict[str, Any]] = [
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


@pytest.fixture
def server(towns: None) -> Iterator[uvicorn.Server]:
    """A server of the index, in a thread."""
    service = RetrievalService(lambda report: Backend(open_index("towns/bm25")), config=ServerConfig())
    # The server itself never closes a silent connection.
    settings = uvicorn.Config(create_app(service), port=0, log_config=None, timeout_keep_alive=3600)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    with closing(RemoteRetriever(address(server))) as retriever:
        retriever.wait_until_ready(60)
    yield server
    server.should_exit = True
    thread.join()


def address(server: uvicorn.Server) -> str:
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def test_a_running_server_is_measured_by_its_address(
    server: uvicorn.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    url = address(server)
    assert main(["index", "recall", url, "--questions", "more.jsonl", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["index"]["urls"] == [url]
    assert report["recall"]["more"]["answers"] == {"3": 1.0, "20": 1.0}


@pytest.mark.timeout(60)
def test_no_connection_to_a_server_stays_open_after_the_measurement(server: uvicorn.Server) -> None:
    assert main(["index", "recall", address(server), "--questions", "more.jsonl"]) == 0
    wait_until(lambda: not server.server_state.connections)


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
