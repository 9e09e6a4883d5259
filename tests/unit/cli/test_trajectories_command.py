"""``calibadv trajectories``: what is found, in which order, and how it looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.trajectory import Action, ActionKind, Credit, Document, Question, StopReason, Trajectory, Turn

PARIS = Document(id="1", title="Paris \x1b[31mred\x9b2J \u202ederp", text="x")


def record(
    question_id: str,
    *,
    step: int,
    reward: float = 0.5,
    stop_reason: StopReason = StopReason.ANSWER,
    last: ActionKind = ActionKind.ANSWER,
    thinking: str = "hm",
) -> Record:
    turns = (
        Turn(
            text="<search>q</search>",
            thinking="look it up",
            action=Action(ActionKind.SEARCH, "capital of France"),
            documents=(PARIS,),
            observation="\n\n<information>...</information>\n\n",
            token_ids=(1, 2, 3),
        ),
        Turn(text="rest", thinking=thinking, action=Action(last, "Paris"), token_ids=(4, 5)),
    )
    trajectory = Trajectory(
        question=Question(
            id=question_id, text="What is the capital?", golden_answers=("Paris", "Paname"), dataset="geo"
        ),
        prompt="p",
        turns=turns,
        stop_reason=stop_reason,
    )
    credit = Credit(
        group_id=question_id,
        reward=reward,
        scores={"f1": reward},
        format_valid=True,
        correctness=(0.5, 0.0),
        advantages=(-1.0, -1.0),
        calibrated=(-0.5, -1.0),
    )
    return Record(trajectory=trajectory, credit=credit, step=step)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (1, 2):
        records = [record(str(i), step=step, reward=i / 10) for i in range(5)]
        write_trajectories(tmp_path / "run" / "trajectories" / f"step-{step:06d}.jsonl.gz", records)
    return tmp_path / "run"


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["trajectories", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_last_step_is_shown_turn_by_turn(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run_dir, "-n", 1)
    assert out.splitlines()[0].startswith("step 2, geo 0, rollout 1  reward 0.00 (f1 0.00; format valid)")
    for text in (
        "golden    Paris | Paname",
        "think     look it up",
        "search    capital of France",
        "advantage -1.000 -> -0.500 (3 tokens, query correctness 0.50)",
        "answer    Paris",
        "advantage -1.000 (2 tokens)",
    ):
        assert text in out


def test_steps_questions_and_numbers_are_chosen(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, run_dir).count("rollout 1") == 3
    assert "step 1, geo 0" in shown(capsys, run_dir, "--step", 1, "-n", 1)
    out = shown(capsys, run_dir, "--question", 3)
    assert "step 1, geo 3" in out
    assert "step 2, geo 3" in out
    assert shown(capsys, run_dir, "--question", 3, "--step", 2).count("geo 3") == 1
    assert "geo 4" in shown(capsys, run_dir, "--best", "-n", 1)


def test_halves_of_surrogate_pairs_and_odd_score_names_can_be_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = record("1", step=1, thinking="half \ud83d of it")
    assert odd.credit is not None
    odd = replace(odd, credit=replace(odd.credit, scores={"f1\x1b[2J": 0.5}))
    write_trajectories(tmp_path / "trajectories.jsonl", [odd])
    out = shown(capsys, tmp_path / "trajectories.jsonl")
    assert "half \ufffd of it" in out
    assert "\x1b" not in out


def test_control_characters_of_models_and_documents_do_not_reach_the_terminal(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(capsys, run_dir)
    assert not set("\x1b\x9b\u202e") & set(out)
    assert "Paris \N{REPLACEMENT CHARACTER}[31mred" in out


def test_an_ending_that_is_no_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    write_trajectories(path, [record("1", step=1, stop_reason=StopReason.SEARCH_LIMIT, last=ActionKind.SEARCH)])
    out = shown(capsys, path)
    assert "found     (not carried out)" in out
    assert "stopped   search limit" in out
    write_trajectories(path, [record("1", step=1, stop_reason=StopReason.INVALID_ACTION, last=ActionKind.INVALID)])
    assert "no action rest" in shown(capsys, path)


def test_long_texts_are_shortened_unless_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.jsonl"
    write_trajectories(path, [record("1", step=1, thinking="word " * 500)])
    assert "characters, --full)" in shown(capsys, path)
    full = shown(capsys, path, "--full")
    assert "--full" not in full
    assert full.count("word") == 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such folder"),
        (["run", "--step", "7"], "no trajectories of step 7; there are those of 2 steps from 1 to 2"),
        (["run", "--question", "99"], "no question '99' there"),
        ([".", "-n", "1"], "holds these runs: run"),
        (["run/trajectories"], "holds no trajectories"),
    ],
)
def test_what_is_not_there_is_said(
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run_dir.parent)
    assert main(["trajectories", *arguments]) == 2
    assert message in capsys.readouterr().err
