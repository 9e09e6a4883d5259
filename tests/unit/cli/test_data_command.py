"""``calibadv data prepare`` through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.data.questions import load_questions

pytest.importorskip("pyarrow")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for split, number in (("train", 20), ("test", 5)):
        rows = ({"id": f"{split}_{i}", "question": f"{split} {i}?", "golden_answers": ["a"]} for i in range(number))
        (tmp_path / "in" / f"nq.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "in" / "nq.train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "x", "question": "Test 3", "golden_answers": ["a"]}) + "\n")
    return ["--source", "in", "--datasets", "nq", "--out", "out"]


def test_prepare_writes_files_and_says_what_it_did(
    source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", *source, "--split", "train,test", "--limit", "10"]) == 0
    out = capsys.readouterr().out
    assert "out/train.parquet: 10 questions" in out
    assert "same text as a test question: nq/test_3" in out
    assert len(load_questions(tmp_path / "out" / "train.parquet")) == 10
    assert len(load_questions(tmp_path / "out" / "test.parquet")) == 5


def test_reports_are_there_as_json(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", *source, "--split", "train", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["datasets"][0]["removed"] == {"same text as a test question": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev,dev"], "must name some of train, dev, test once each"),
        (["--split", "test", "--mix", "1,2"], "--mix 1,2: give one weight per data set, 1 in all"),
        (["--split", "test", "--source", "absent"], "--source absent: no such folder"),
        (["--split", "test", "--datasets", "nqs"], "has no data set nqs; did you mean nq?"),
    ],
)
def test_bad_input_is_one_clear_line(
    source: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", *source, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
