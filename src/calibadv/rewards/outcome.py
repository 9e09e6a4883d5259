"""The outcome reward: score of the model's own answer times the format flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from calibadv.config_class import config_class
from calibadv.errors import ConfigError
from calibadv.rewards.answer_scores import cover_exact_match, exact_match, f1_score
from calibadv.rewards.format import is_well_formed
from calibadv.trajectory import Trajectory

ScoreName: TypeAlias = Literal["f1", "em", "cem"]
SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "f1": f1_score,
    "em": exact_match,
    "cem": cover_exact_match,
}
"""The one table of scores, in the order in which they are shown; settings, columns and metrics derive from it."""


@config_class("reward")
class RewardConfig:
    """The outcome reward: score of the answer times the format flag."""

    function: str = "outcome"
    """"outcome" is score times format; or your own ``(trajectory) -> float`` as "package.module:name"."""
    score: ScoreName = "f1"
    """Word overlap, exact match or cover exact match with the best golden answer."""


def score_trajectory(trajectory: Trajectory) -> dict[str, float]:
    """Every score of the answer, before the format factor.

    Args:
        trajectory: A finished episode.

    Returns:
        Value by the score's name; zeros when there is no answer.

    Raises:
        DataError: The question has no golden answers.
    """
    answer = trajectory.answer
    golden = trajectory.question.golden_answers
    if answer is None:
        return dict.fromkeys(SCORES, 0.0)
    return {name: score(answer, golden) for name, score in SCORES.items()}


def outcome_reward(trajectory: Trajectory, *, score: str = "f1") -> float:
    """The trajectory's reward: the named score when the format is clean, else 0. Source: the paper's outcome reward.

    Args:
        trajectory: A finished episode.
        score: A name of `SCORES`.

    Returns:
        A value in [0, 1].

    Raises:
        ConfigError: No such score.
        DataError: The question has no golden answers.
    """
    check_score(score)
    if trajectory.answer is None or not is_well_formed(trajectory):
        return 0.0
    return SCORES[score](trajectory.answer, trajectory.question.golden_answers)


def check_score(score: str) -> None:
    """Raise ConfigError for a score that does not exist."""
    if score not in SCORES:
        raise ConfigError(f"reward.score must be one of {', '.join(SCORES)}, got {score!r}")
