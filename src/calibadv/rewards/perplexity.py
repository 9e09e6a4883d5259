"""Garbled text: a trajectory is garbled when one of its turns has a perplexity at or above the threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibadv.errors import ConfigError
from calibadv.trajectory import Trajectory

GARBLED_THRESHOLD = 50.0


def perplexity(logprobs: Sequence[float]) -> float:
    """``exp(-mean)`` of log-probabilities.

    Args:
        logprobs: Natural log-probabilities of the tokens of a text.

    Returns:
        At least 1; NaN without tokens, infinite when a token was impossible.

    >>> round(perplexity([-1.0, -3.0]), 3)
    7.389
    """
    if not logprobs:
        return math.nan
    mean = math.fsum(logprobs) / len(logprobs)
    return math.exp(-mean) if mean > -700.0 else math.inf


def segment_perplexities(trajectory: Trajectory) -> tuple[float, ...]:  # [num_turns]
    """The perplexity of each turn under the policy that wrote it.

    Args:
        trajectory: A finished episode.

    Returns:
        One value for each turn; NaN for a turn without log-probabilities.
    """
    return tuple(perplexity(turn.logprobs) for turn in trajectory.turns)


def is_garbled(trajectory: Trajectory, threshold: float = GARBLED_THRESHOLD) -> bool:
    """Whether any turn reaches the threshold. Source: the garbled rate of the paper's evaluation.

    Args:
        trajectory: A finished episode.
        threshold: A perplexity.

    Returns:
        Whether it is garbled; a turn without log-probabilities never is.

    Raises:
        ConfigError: A threshold that every text reaches.
    """
    if not threshold > 1.0:
        raise ConfigError(f"threshold must be > 1 (perplexities are), got {threshold}")
    return any(value >= threshold for value in segment_perplexities(trajectory))
