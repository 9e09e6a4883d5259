"""``calibadv eval score`` and ``calibadv eval diff`` through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv.cli.main import main


def traces(path: Path, runs: dict[str, list[str | None]]) -> str:
    """``runs[run]`` holds an answer per question."""
    rows = [
        {
            "id": str(number), "dataset": "geo", "question": f"q {number}?", "golden_answers": ["Paris"], "run": run,
            "prompt": "", "response": f"<answer>{answer}</answer>" if answer else "hm",
        }
        for run, answers in runs.items()
        for number, answer in enumerate(answers)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    file = traces(tmp_path / "t.jsonl", {"one": ["Paris", "Rome", None], "two": ["Paris", "Paris", "\x1b[31mOslo"]})
    for run in ("one", "two"):
        assert main(["eval", "score", file, "--run", run, "--out", run]) == 0
    capsys.readouterr()
    return tmp_path


def test_score_prints_a_table_per_run(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "score", "t.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "\none\n" in out
    assert "\ntwo\n" in out
    assert "0.333 [" in out
    assert "0.667 [" in out
    assert main(["eval", "score", "t.jsonl", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["two"]["geo"]["metrics"]["em"]["mean"] == pytest.approx(2 / 3)


def test_score_refuses_what_it_cannot_read(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["absent.jsonl"], "no such file"),
        (["t.jsonl", "--run", "three"], "no rollouts whose run holds 'three'"),
        (["t.jsonl", "--judge", "m"], "--judge needs --judge-url too"),
        (["t.jsonl", "--out", "."], "is not empty"),
    ):
        assert main(["eval", "score", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_diff_shows_differences_wins_and_changed_questions(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "diff", "one", "two"]) == 0
    out = capsys.readouterr().out
    assert "+0.333 [" in out
    assert "won  geo/1  f1 0.00 -> 1.00" in out
    assert "A         Rome" in out
    assert "B         Paris" in out
    assert "\x1b" not in out, "control characters of an answer stay off the terminal"


@pytest.mark.parametrize("form", ["json", "markdown", "latex"])
def test_diff_has_other_forms(scored: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "diff", "one", "two", "--format", form, "--metric", "em"]) == 0
    out = capsys.readouterr().out
    if form == "json":
        comparison = json.loads(out)
        assert comparison["differences"]["geo"]["em"]["wins"] == 1
        assert comparison["changed"][0]["answers_after"] == ["Paris"]
    else:
        assert "+0.333 [" in out


def test_diff_refuses_different_questions(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = traces(scored / "u.jsonl", {"x": ["Paris", "Rome"]})
    assert main(["eval", "score", file, "--out", "x"]) == 0
    assert main(["eval", "diff", "one", "x"]) == 2
    assert "2 are in both, 1 only in A" in capsys.readouterr().err
    assert main(["eval", "diff", "one", "x", "--common"]) == 0
    assert "left out: 1 questions only in A, 0 only in B" in capsys.readouterr().out
    assert main(["eval", "diff", "one", "absent"]) == 2


def test_help_teaches_all_three_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["eval", "--help"], ["eval", "diff", "--help"], ["eval", "score", "--help"], ["--help"]):
        assert main(arguments) == 0
    out = capsys.readouterr().out
    for words in ("calibadv eval diff runs/a runs/b", "calibadv eval score traces.jsonl.gz", "eval score", "--common"):
        assert words in out


def test_counts_and_seconds_are_no_shares(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "diff", "one", "two", "--metric", "turns", "--changed", "0"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " turns " in line]
    assert line.split()[3:6] == ["1.0", "1.0", "+0.0"]


def test_a_negative_number_of_changes_is_refused(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "diff", "one", "two", "--changed", "-1"]) == 2
    assert "--changed" in capsys.readouterr().err


def test_files_of_the_same_name_are_both_written_down(scored: Path) -> None:
    for folder in ("x", "y"):
        (scored / folder).mkdir()
        traces(scored / folder / "t.jsonl", {folder: ["Paris"]})
    assert main(["eval", "score", "x/t.jsonl", "y/t.jsonl", "--out", "both"]) == 0
    assert set(json.loads((scored / "both" / "manifest.json").read_text())["files"]) == {"x/t.jsonl", "y/t.jsonl"}
