"""The door for rewards: ``reward.function`` names the built-in one, or yours; either is ``(trajectory) -> float``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from calibadv.errors import ConfigError
from calibadv.registry import call, check_call, name_of, resolve
from calibadv.rewards.format import is_well_formed
from calibadv.rewards.outcome import check_score, outcome_reward, score_trajectory
from calibadv.trajectory import Trajectory

SETTING = "reward.function"


class Reward(Protocol):
    """What a trajectory is worth: a finite number, given once the trajectory is over.

    It is called once for each trajectory that did not fail, in the process that played it. Trajectories carry the
    question with its golden answers, every turn with its action, text, token ids and documents, and the stop reason.
    """

    def __call__(self, trajectory: Trajectory, /) -> float: ...


@dataclass(frozen=True, slots=True)
class OutcomeReward:
    """The paper's reward: a score of the answer times the format flag."""

    score: str = "f1"
    """Name of the score."""

    def __call__(self, trajectory: Trajectory) -> float:
        """The reward of a trajectory."""
        return outcome_reward(trajectory, score=self.score)

    def of(self, scores: Mapping[str, float], *, format_valid: bool) -> float:
        """The same from scores and a format verdict that are known already."""
        return scores[self.score] if format_valid else 0.0


REWARDS: Mapping[str, Callable[[str], Reward]] = {"outcome": OutcomeReward}
"""Built-in rewards by their names in ``reward.function``; each is made for a ``reward.score``."""


def open_reward(named: str | Reward, *, score: str = "f1") -> Reward:
    """The reward of a name, an import path, or itself.

    Args:
        named: ``reward.function``, or a function in Python.
        score: ``reward.score``, for the built-in ones.

    Raises:
        ConfigError: There is none of that name, or it cannot be called with a trajectory.
    """
    check_score(score)
    reward: Any = resolve(named, built_in={name: make(score) for name, make in REWARDS.items()}, setting=SETTING)
    check_call(reward, "trajectory", setting=SETTING, wanted="reward(trajectory) -> float")
    return reward  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """All verdicts about one trajectory, reached once."""

    scores: Mapping[str, float]
    """Score name -> value, before the format factor."""
    format_valid: bool
    reward: float
    """0 for a trajectory that failed for a reason outside the policy."""


def scored(trajectory: Trajectory, *, score: str, reward: Reward | None = None) -> Scored:
    """Score a trajectory, check its format and ask the reward: training and evaluation both do it here.

    Args:
        trajectory: A finished episode.
        score: Name of the score that the outcome reward takes.
        reward: Another reward than the outcome reward.

    Raises:
        ConfigError: The reward is of another's making and returned no finite number.
    """
    scores, format_valid = score_trajectory(trajectory), is_well_formed(trajectory)
    if reward is None or isinstance(reward, OutcomeReward):
        value = (reward or OutcomeReward(score)).of(scores, format_valid=format_valid)
    else:
        value = 0.0 if trajectory.failed else reward_of(reward, trajectory)
    return Scored(scores=scores, format_valid=format_valid, reward=value)


def reward_of(reward: Reward, trajectory: Trajectory) -> float:
    """Call a reward and check what it returns.

    Raises:
        ConfigError: It raised, or returned something that is no finite number; the message names the setting.
    """
    value = call(reward, trajectory, setting=SETTING)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"{SETTING} {name_of(reward)!r} returned {value!r} for question {trajectory.question.id!r}, rollout "
            f"{trajectory.rollout_index}; a reward must be a finite number"
        )
    return number
