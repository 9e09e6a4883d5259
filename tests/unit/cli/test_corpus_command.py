"""``calibadv corpus``: import with its account, info, verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.retrieval import Corpus


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": "a", "title": "Ada", "text": "Ada wrote programs."},
        {"id": "a", "title": "Ada", "text": "again"},
        {"id": "b", "title": "Charles", "text": "Charles built engines of brass."},
        {"id": "c", "title": "Nobody", "text": ""},
    ]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    return path


def test_import_prints_what_was_left_out_and_what_comes_next(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "import", "people.jsonl", "--out", "people"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("2 documents of 5 rows in people")
    assert "left out, broken: 1:\n  people.jsonl:5: not JSON" in out
    assert "left out, duplicate id: 1:\n  people.jsonl:2: duplicate id 'a'" in out
    assert "left out, empty document: 1:\n  people.jsonl:4: empty document (id 'c')" in out
    assert "calibadv index build people --method bm25" in out
    assert err == ""
    assert len(Corpus.open("people")) == 2


def test_import_as_json_is_the_account_that_is_kept(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "import", "people.jsonl", "--out", "people", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    kept = json.loads((source.parent / "people" / "corpus.json").read_text())["report"]
    assert account.pop("out") == "people"
    assert account.pop("seconds") >= 0
    assert account == kept
    assert account["counts"] == {"broken": 1, "not_utf8": 0, "duplicate": 1, "empty": 1}


def test_strict_is_one_line_and_exit_code_two(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "import", "people.jsonl", "--out", "people", "--strict"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "DataError: people.jsonl:2: duplicate id 'a'; ids must be unique\n")
    assert [path.name for path in source.parent.iterdir()] == ["people.jsonl"]


def test_options_reach_the_import(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["corpus", "import", "people.jsonl", "--out", "people", "--id-field", "id", "--title-field", "title"]
    command += ["--text-field", "text", "--chunk-words", "3", "--chunk-overlap", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("3 passages of 5 rows")
    assert [document.id for document in Corpus.open("people")] == ["a#0", "b#0", "b#1"]
    source.write_text('{"id": 1, "both": "\\"T\\"\\ntext"}\n')
    assert main(["corpus", "import", "people.jsonl", "--out", "both", "--contents-field", "both"]) == 0
    assert Corpus.open("both")[0].title == "T"


def test_impossible_options_and_a_full_folder_are_one_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, message in (
        (["people.jsonl", "--out", "."], "exists and is not empty"),
        (["people.jsonl", "--out", "x", "--chunk-overlap", "3"], "chunk_overlap 3 needs chunk_words"),
        (["absent.jsonl", "--out", "x"], "absent.jsonl: no such file or folder"),
    ):
        assert main(["corpus", "import", *command]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1


def test_info_describes_a_corpus(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["corpus", "import", "people.jsonl", "--out", "people"])
    capsys.readouterr()
    assert main(["corpus", "info", "people"]) == 0
    out = capsys.readouterr().out
    for line in (
        "documents       2",
        "ids             by hash",
        "source          people.jsonl",
        "'a': Ada",
        "left out, duplicate id: 1:",
    ):
        assert line in out
    assert main(["corpus", "info", "people", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["num_documents"] == 2
    assert record["sha256"] == Corpus.open("people").sha256
    assert record["report"]["num_rows"] == 5


def test_info_shows_no_control_characters_of_a_document(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text(json.dumps({"id": "\x1b[31mred", "title": "\x1b]0;title\x07", "text": "x"}) + "\n")
    main(["corpus", "import", "people.jsonl", "--out", "people"])
    main(["corpus", "info", "people"])
    assert "\x1b" not in capsys.readouterr().out


def test_verify_accepts_a_whole_corpus_and_refuses_a_changed_one(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["corpus", "import", "people.jsonl", "--out", "people"])
    assert main(["corpus", "verify", "people"]) == 0
    assert "2 documents, all as they were imported" in capsys.readouterr().out
    assert main(["corpus", "verify", "people", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    arrow = source.parent / "people" / "documents.arrow"
    arrow.write_bytes(arrow.read_bytes().replace(b"programs", b"problems"))
    assert main(["corpus", "verify", "people"]) == 2
    assert "not those that were imported" in capsys.readouterr().err
    arrow.write_bytes(arrow.read_bytes()[:-10])
    assert main(["corpus", "verify", "people"]) == 2
    assert "was cut off or changed" in capsys.readouterr().err
    assert main(["corpus", "verify", "absent"]) == 2
    assert "absent: no corpus.json" in capsys.readouterr().err
