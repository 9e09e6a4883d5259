"""Estimators: a batch in, the advantage of every turn out, before any calibration.

An estimator is a function of a `CreditBatch`; ``calibration.estimator`` names a built-in one (`ESTIMATORS`) or
yours. The soft penalty and the rebalance work on whatever it returns; with ``algorithm.name = "grpo"`` nothing follows.

Shape suffixes: N = trajectories of the batch, K = turns (padded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from calibadv.advantage.grpo import (
    Bools,
    Floats,
    Indices,
    group_advantages,
    leave_one_out_advantages,
)
from calibadv.errors import ConfigError
from calibadv.registry import call, check_call, name_of, resolve

SETTING = "calibration.estimator"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CreditBatch:
    """What an estimator may look at: the whole batch, all questions, from all processes."""

    rewards_N: Floats
    """Reward of each trajectory; 0 for those that take no part."""
    group_N: Indices
    """Number of each trajectory's group (its question), from 0; members need not be neighbours."""
    included_N: Bools
    """False for trajectories that failed for reasons outside the policy: their advantages are set to 0."""
    num_tokens_NK: Floats
    """Tokens that the model wrote in each turn; 0 where there is no turn."""
    answer_NK: Bools
    """Marks the answer turn, the last with tokens; the turns before it are searches."""
    correctness_NK: Floats
    """Query correctness of the search turns in [0, 1]; 0 where none was given."""
    document_ids_NK: tuple[tuple[tuple[str, ...], ...], ...]  # [N][num_turns][num_documents]
    """Ids of the documents that each turn's search found; empty for turns without a search, and if none were given."""

    def groups(self) -> Iterator[Indices]:
        """The trajectories of each group that take part, as indices into N."""
        for group in range(int(self.group_N.max(initial=-1)) + 1):
            yield np.flatnonzero((self.group_N == group) & self.included_N)

    def per_turn(self, advantages_N: ArrayLike) -> Floats:
        """One advantage for each trajectory, written onto all of its turns: [N] -> [N, K]."""
        return np.where(self.num_tokens_NK > 0, np.asarray(advantages_N, dtype=np.float64)[:, None], 0.0)


class Estimator(Protocol):
    """Advantages of shape [N, K] from a batch; finite, and free to differ between the turns of a trajectory."""

    def __call__(self, batch: CreditBatch, /) -> ArrayLike: ...


def grpo(batch: CreditBatch) -> Floats:
    """``(r - mean) / (std + 1e-6)`` within the group (the paper's)."""
    return batch.per_turn(
        group_advantages(batch.rewards_N, group_ids=batch.group_N, included_N=batch.included_N, scale="std")
    )


def dr_grpo(batch: CreditBatch) -> Floats:
    """``r - mean`` within the group (Dr. GRPO: no standard deviation)."""
    return batch.per_turn(
        group_advantages(batch.rewards_N, group_ids=batch.group_N, included_N=batch.included_N, scale="none")
    )


def rloo(batch: CreditBatch) -> Floats:
    """``r`` minus the mean reward of the others in the group (RLOO)."""
    return batch.per_turn(
        leave_one_out_advantages(batch.rewards_N, group_ids=batch.group_N, included_N=batch.included_N)
    )


ESTIMATORS: Mapping[str, Estimator] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}
"""The built-in estimators by their names in ``calibration.estimator``."""


def open_estimator(named: str | Estimator) -> Estimator:
    """The estimator of a name, an import path, or itself.

    Raises:
        ConfigError: There is none of that name, or it cannot be called with a batch.
    """
    estimator: Estimator = resolve(named, built_in=ESTIMATORS, setting=SETTING)
    check_call(estimator, "batch", setting=SETTING, wanted="estimator(batch) -> advantages of shape [N, K]")
    return estimator


def estimate(estimator: Estimator, batch: CreditBatch) -> Floats:
    """Call an estimator and check what it returns: shape [N, K], finite; 0 where there is no turn.

    Raises:
        ConfigError: It returned something else; the message names the setting, the object and what was wrong.
    """
    shape = batch.num_tokens_NK.shape
    returned = call(estimator, batch, setting=SETTING)
    who = f"{SETTING} {name_of(estimator)!r} returned"
    try:
        advantages = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{who} {type(returned).__name__}, which is no array of numbers: {error}") from error
    if advantages.shape != shape:
        raise ConfigError(
            f"{who} shape {list(advantages.shape)} for {shape[0]} trajectories of up to {shape[1]} turns; return "
            f"[{shape[0]}, {shape[1]}] (batch.per_turn makes it from one value for each trajectory)"
        )
    used = (batch.num_tokens_NK > 0) & batch.included_N[:, None]
    bad = np.argwhere(used & ~np.isfinite(advantages))
    if bad.size:
        n, k = bad[0]
        raise ConfigError(f"{who} {advantages[n, k]} for turn {k} of trajectory {n}; every advantage must be finite")
    return np.where(used, advantages, 0.0)


def document_ids(
    given: Sequence[Sequence[Sequence[str]]] | None, *, num_trajectories: int
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The documents of every turn as tuples; nothing for each trajectory where none were given."""
    if given is None:
        return ((),) * num_trajectories
    return tuple(tuple(tuple(turn) for turn in turns) for turns in given)
