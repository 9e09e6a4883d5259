"""Paired comparison."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.evaluation import Journal, read_evaluation
from calibadv.evaluation.compare import Answered, compare
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn


def answered(values: Sequence[float], *, dataset: str = "a", start: int = 0, question: str = "q") -> Any:
    return {
        (dataset, str(start + i)): Answered(
            question=f"{question} {start + i}",
            golden_answers=("x",),
            answers=(f"answer {value}",),
            values={"f1": float(value), "em": float(value == 1)},
        )
        for i, value in enumerate(values)
    }


def test_wins_losses_and_changed_questions() -> None:
    comparison = compare(answered([1, 0, 0.5, 0]), answered([1, 1, 0.25, 0]))
    f1 = comparison.differences["a"]["f1"]
    assert (f1.wins, f1.losses, f1.ties) == (1, 1, 2)
    assert f1.mean == pytest.approx((1 - 0.25) / 4)
    assert [(c.id, c.before, c.after) for c in comparison.changed] == [("2", 0.5, 0.25), ("1", 0.0, 1.0)]
    assert comparison.changed[1].answers_after == ("answer 1",)


def test_pairing_finds_a_small_steady_gain_that_intervals_of_each_hide() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(200)
    after = np.clip(before + rng.normal(0.03, 0.05, 200), 0, 1)
    difference = compare(answered(before.tolist()), answered(after.tolist())).differences["a"]["f1"]
    assert difference.low > 0
    assert difference.p_value < 0.01
    assert 2 * 1.96 * before.std() / np.sqrt(200) > difference.mean  # an unpaired interval is wider than the gain


def test_no_difference_is_no_difference() -> None:
    same = answered([0, 1, 0.5])
    difference = compare(same, same).differences["a"]["f1"]
    assert (difference.mean, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1.0)


def test_several_data_sets_are_compared_apart_and_together() -> None:
    a = answered([0, 0]) | answered([1, 1], dataset="b")
    b = answered([1, 1]) | answered([1, 0], dataset="b")
    comparison = compare(a, b)
    assert {name: d["f1"].mean for name, d in comparison.differences.items()} == {"a": 1.0, "b": -0.5, "all": 0.25}
    assert comparison.num_questions == {"a": 2, "b": 2, "all": 4}


def test_different_questions_are_refused_with_the_overlap() -> None:
    with pytest.raises(DataError, match=r"2 are in both, 1 only in A \(such as a/0\); 3 only in B .*--common"):
        compare(answered([1, 1, 1]), answered([0, 0, 0, 0, 0], start=1))
    comparison = compare(answered([1, 1, 1]), answered([0, 0, 0, 0, 0], start=1), common=True)
    assert (comparison.num_questions["a"], comparison.only_before, comparison.only_after) == (2, 1, 3)
    with pytest.raises(DataError, match=r"share no question: A has 1 \(a\), B 1 \(b\)"):
        compare(answered([1]), answered([1], dataset="b"), common=True)
    with pytest.raises(DataError, match="a/0: the question differ"):
        compare(answered([1]), answered([1], question="other"))


def test_a_metric_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--metric must be one that both evaluations have \(f1, em\), got 'judge'"):
        compare(answered([1]), answered([1]), metric="judge")


def test_samples_of_a_question_are_averaged(tmp_path: Path) -> None:
    lines = [
        {"dataset": "a", "id": "1", "question": "q", "golden_answers": ["x"], "answer": answer, "f1": value}
        for answer, value in (("x", 1.0), (None, 0.0))
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_evaluation(tmp_path)
    assert read["a", "1"].values == {"f1": 0.5}
    assert read["a", "1"].answers == ("x", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"questions\.jsonl:1: not valid JSON"),
        ('{"id": 1}\n', "not the questions of an evaluation"),
        (None, "no questions"),
    ],
)
def test_what_is_no_evaluation_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "questions.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_evaluation(tmp_path)


def test_an_unfinished_evaluation_counts_a_rollout_that_was_played_again_once(tmp_path: Path) -> None:
    question = Question(id="1", text="q", golden_answers=("x",), dataset="a")
    failed = Trajectory(question=question, prompt="p", turns=(), stop_reason=StopReason.SEARCH_FAILED)
    turn = Turn(text="<answer>x</answer>", action=Action(ActionKind.ANSWER, "x"))
    with Journal(tmp_path / "finished.jsonl") as journal:
        journal.add(failed, 0.1)
        journal.add(replace(failed, turns=(turn,), stop_reason=StopReason.ANSWER), 0.1)
        (answered,) = read_evaluation(tmp_path).values()  # also while the evaluation goes on
    assert answered.answers == ("x",)
    assert answered.values["f1"] == 1.0


def test_an_evaluation_that_has_just_begun_is_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "finished.jsonl"),
        pytest.raises(DataError, match="no question of that evaluation is finished yet"),
    ):
        read_evaluation(tmp_path)


def test_any_seed_will_do() -> None:
    same = answered([0, 1, 0.5])
    assert compare(same, same, seed=-1).differences["a"]["f1"].mean == 0


def test_a_data_set_called_all_is_no_average() -> None:
    several = answered([0, 1], dataset="all") | answered([1], dataset="b")
    with pytest.raises(DataError, match=r"data set 'all'.*rename"):
        compare(several, several)
