"""The door for rewards: by name, by import path, as a function; what they may return."""

from __future__ import annotations

from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.rewards.reward import OutcomeReward, open_reward, reward_of
from calibadv.training.credit import Outcome
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn

TRAJECTORY = Trajectory(
    question=Question(id="q7", text="who?", golden_answers=("ada",)),
    prompt="who?<think>",
    turns=(Turn(text="so</think><answer>ada</answer>", thinking="so", action=Action(ActionKind.ANSWER, "ada")),),
    stop_reason=StopReason.ANSWER,
)


def test_the_built_in_reward_is_score_times_format() -> None:
    assert open_reward("outcome") == OutcomeReward("f1")
    assert reward_of(open_reward("outcome", score="em"), TRAJECTORY) == 0.0  # no search: not well formed


def test_a_reward_of_ones_own_decides_alone_and_leaves_the_scores_as_they_are() -> None:
    outcome = Outcome.of(TRAJECTORY, group_id="g", score="f1", reward=lambda t: 2.5 * len(t.turns))
    assert (outcome.reward, outcome.scores["f1"]) == (2.5, 1.0)


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), None, "much"])
def test_what_is_no_finite_number_is_refused_with_the_setting_and_the_question(returned: Any) -> None:
    with pytest.raises(ConfigError, match=r"reward.function .* returned .* for question 'q7', rollout 0") as caught:
        reward_of(lambda trajectory: returned, TRAJECTORY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("f1", r"reward.function must be one of outcome, \"package.module:name\", got 'f1'"),
        ("no_such_module:f", r"reward.function 'no_such_module:f': cannot import no_such_module"),
        (lambda: 1.0, r"reward.function must be callable as reward\(trajectory\) -> float; .*too many"),
        (3, r"reward.function must be callable as reward\(trajectory\) -> float, got int"),
    ],
)
def test_a_wrong_name_path_or_signature_names_the_setting(named: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_reward(named)
