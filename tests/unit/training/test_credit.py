from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.advantage import CalibrationConfig
from calibadv.training.credit import Outcome, assign_credit
from calibadv.trajectory import Action, ActionKind, Document, Question, StopReason, Trajectory, Turn

QUESTION = Question(id="q", text="who wrote it?", golden_answers=("ada",))


def trajectory(answer: str, *, documents: str = "ab", failed: bool = False) -> Trajectory:
    """One search and one answer; every letter of ``documents`` is a document."""
    search = Turn(
        text=f"i look for {documents}</think><search>it</search>",
        thinking=f"i look for {documents}",
        action=Action(ActionKind.SEARCH, "it"),
        documents=tuple(Document(id=d, title=d, text="") for d in documents),
        observation="\n\n<information>...</information>\n\n<think>",
        token_ids=(1, 2, 3),
        logprobs=(-0.5, -0.5, -0.5),
        observation_token_ids=(9,),
    )
    reply = Turn(
        text=f"so</think><answer>{answer}</answer>",
        thinking="so",
        action=Action(ActionKind.ANSWER, answer),
        token_ids=(4, 5),
        logprobs=(-1.0, -1.0),
    )
    return Trajectory(
        question=QUESTION,
        prompt="who wrote it?<think>",
        turns=(search,) if failed else (search, reply),
        stop_reason=StopReason.SEARCH_FAILED if failed else StopReason.ANSWER,
    )


def outcomes(*trajectories: Trajectory, group: str = "g") -> list[Outcome]:
    return [Outcome.of(t, group_id=group, score="f1") for t in trajectories]


def test_good_search_of_a_wrong_answer_is_forgiven_under_calibration_only() -> None:
    batch = outcomes(trajectory("ada"), trajectory("bob", documents="ax"), trajectory("bob", documents="yz"))
    calibrated, plain = (
        assign_credit(batch, config=CalibrationConfig()),
        assign_credit(batch, config=CalibrationConfig.plain()),
    )
    assert calibrated.correctness_NK[1, 0] == 0.5
    np.testing.assert_allclose(calibrated.after_NK[1, 0], calibrated.before_NK[1, 0] / 2)
    np.testing.assert_array_equal(plain.after_NK, plain.before_NK)
    np.testing.assert_array_equal(plain.before_NK, calibrated.before_NK)
    assert plain.metrics["mispenalised_turns"] == calibrated.metrics["mispenalised_turns"] == 1


def test_failed_rollout_takes_no_part() -> None:
    kept = outcomes(trajectory("ada"), trajectory("bob"))
    with_failure = assign_credit([*kept, *outcomes(trajectory("", failed=True))], config=CalibrationConfig.plain())
    np.testing.assert_allclose(
        with_failure.after_NK[:2], assign_credit(kept, config=CalibrationConfig.plain()).after_NK
    )
    assert not with_failure.after_NK[2].any()
    assert with_failure.metrics["failed_rollouts"] == 1
    assert with_failure.metrics["reward"] == 0.5


def test_lone_survivor_of_a_group_has_nothing_to_be_compared_with() -> None:
    batch = outcomes(trajectory("ada"), trajectory("", failed=True), trajectory("", failed=True))
    assert not assign_credit(batch, config=CalibrationConfig()).after_NK.any()
    assert not assign_credit(batch, config=CalibrationConfig.plain()).after_NK.any()


def test_groups_are_told_apart_by_id_and_not_by_position() -> None:
    first = outcomes(trajectory("ada"), trajectory("bob"), group="1")
    second = outcomes(trajectory("bob"), trajectory("bob"), group="2")
    mixed = assign_credit([first[0], second[0], first[1], second[1]], config=CalibrationConfig.plain())
    np.testing.assert_allclose(mixed.after_NK[[0, 2]], assign_credit(first, config=CalibrationConfig.plain()).after_NK)
    assert not mixed.after_NK[[1, 3]].any()
    assert mixed.metrics["groups_without_signal"] == 0.5


def test_metrics_are_means_over_trajectories_and_tokens() -> None:
    metrics = assign_credit(outcomes(trajectory("ada"), trajectory("bob")), config=CalibrationConfig.plain()).metrics
    assert metrics["f1"] == metrics["em"] == 0.5
    assert metrics["format_valid"] == metrics["searches"] == 1.0
    assert metrics["tokens"] == 5
    assert metrics["entropy"] == pytest.approx((3 * 0.5 + 2 * 1.0) / 5)
    assert metrics["entropy_search"] == 0.5
    assert metrics["perplexity_answer"] == pytest.approx(np.e)
    assert metrics["silver_counts"] == [2]
    assert metrics["correctness_mean"] == 1.0


def test_batch_in_which_everything_failed_is_all_zero() -> None:
    credit = assign_credit(outcomes(*[trajectory("", failed=True)] * 2), config=CalibrationConfig())
    assert not credit.after_NK.any()
    assert credit.metrics["reward"] is None


@given(st.permutations(range(6)))
def test_order_of_the_batch_does_not_matter(order: list[int]) -> None:
    batch = [
        *outcomes(trajectory("ada"), trajectory("bob", documents="ax"), trajectory("bob"), group="1"),
        *outcomes(trajectory("ada"), trajectory("bob", documents="cd"), trajectory("ada b"), group="2"),
    ]
    straight = assign_credit(batch, config=CalibrationConfig()).after_NK
    shuffled = assign_credit([batch[i] for i in order], config=CalibrationConfig()).after_NK
    np.testing.assert_allclose(shuffled, straight[list(order)])


def test_record_of_a_trajectory_has_a_value_for_every_turn() -> None:
    batch = outcomes(trajectory("ada"), trajectory("bob", documents="ax"))
    credit = assign_credit(batch, config=CalibrationConfig()).of(1, batch[1])
    assert len(credit.advantages) == len(credit.calibrated) == 2
    assert credit.correctness == (0.5, 0.0)
