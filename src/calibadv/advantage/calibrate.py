"""Calibrated advantages: the soft penalty for search turns, then the rebalance of the answer turns (the paper).

Every advantage of the method is the same for all tokens of a turn; tokens matter only as counts, in the rebalance.
So all of it is computed per turn here, and `calibadv.advantage.spread` writes it onto tokens at the very end::

    A = (r - mean) / (std + 1e-6)                        GRPO: one advantage per trajectory
    A[search turn] = A * (1 - c)           if A < 0      soft penalty: forgive searches that found silver documents
    A[answer turn] = A * lambda * N / P    if A > 0      rebalance: positive : negative mass of a group is lambda

Departures from the published code: equal rewards give exactly 0; a batch without a negative advantage is no error;
whether a trajectory is negative is read from its advantage, not from its first token.

Shape suffixes: N = trajectories of the batch, K = turns (padded; a turn without tokens is none), G = groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike

from calibadv.advantage.estimators import (
    ESTIMATORS,
    SETTING,
    CreditBatch,
    Estimator,
    document_ids,
    estimate,
    open_estimator,
)
from calibadv.advantage.grpo import Bools, Floats, GroupIds, Indices, check_rewards, group_index
from calibadv.advantage.silver import SILVER_THRESHOLD, CorrectnessVariant
from calibadv.advantage.stats import CalibrationStats, group_mass, measure
from calibadv.config_class import PositiveFraction, config_class
from calibadv.errors import ConfigError, DataError
from calibadv.registry import is_import_path

SoftPenalty: TypeAlias = Literal["none", "shrink", "interpolate"]
Rebalance: TypeAlias = Literal["none", "positive", "negative"]


@config_class("calibration")
class CalibrationConfig:
    """The settings of the method. The defaults are the paper's; `plain` is the baseline it compares with."""

    estimator: str = "grpo"
    """How rewards become advantages: ``grpo`` (the paper's), ``dr_grpo`` (no standard deviation), ``rloo``, or your
    own as "package.module:name" (`calibadv.advantage.estimators.Estimator`)."""
    soft_penalty: SoftPenalty = "shrink"
    """``shrink`` negative search turns towards 0 (the paper's), ``interpolate`` to the group's best, or ``none``."""
    rebalance: Rebalance = "positive"
    """Scale the ``positive`` answer turns (the paper's), the ``negative`` ones, or ``none``."""
    rebalance_coef: Annotated[float, Interval(ge=1e-3, le=1e3)] = 1.0
    """Positive-to-negative advantage mass in the answer turns after the rebalance (the paper's lambda), from 0.001 to
    1000: far from 1 only one side is trained, and gradients soon overflow."""
    correctness: CorrectnessVariant = "share"
    """Query correctness: ``share`` of silver documents (the paper's); ``max``, ``mean`` weigh by how often silver."""
    silver_threshold: PositiveFraction = SILVER_THRESHOLD
    """Lowest score of a correct trajectory; what it retrieved may become silver."""

    def __post_init__(self) -> None:
        if not is_import_path(self.estimator) and self.estimator not in tuple(ESTIMATORS):
            known = ", ".join((*ESTIMATORS, '"package.module:name"'))
            raise ConfigError(f"{SETTING} must be one of {known}, got {self.estimator!r}")

    @classmethod
    def plain(cls, *, estimator: str = "grpo") -> CalibrationConfig:
        """No calibration, only the estimator."""
        return cls(estimator=estimator, soft_penalty="none", rebalance="none")

    @property
    def needs_correctness(self) -> bool:
        """Whether query correctness has any effect on the advantages."""
        return self.soft_penalty != "none"


def calibrate(
    rewards_N: ArrayLike,
    *,
    group_ids: GroupIds,
    correctness_NK: ArrayLike | None,
    num_tokens_NK: ArrayLike,
    document_ids_NK: Sequence[Sequence[Sequence[str]]] | None = None,
    config: CalibrationConfig | None = None,
    estimator: Estimator | None = None,
    included_N: ArrayLike | None = None,
) -> tuple[Floats, CalibrationStats]:
    """Advantage of every turn of a batch, and what calibration did.

    Source: the paper's method, all of it: the estimator, the soft penalty, then the rebalance.

    Args:
        rewards_N: One reward for each trajectory.
        group_ids: The question of each trajectory, in any order.
        correctness_NK: Query correctness in [0, 1], with NaN or 0 where none is given; None gives none at all.
        num_tokens_NK: Tokens that the model wrote in each turn; 0 means no such turn. The last turn with tokens is the
            answer turn, whatever it holds.
        document_ids_NK: Ids of the documents that each turn found (ragged), for estimators that look at them.
        config: The settings of the method; None: the paper's.
        estimator: Takes the place of ``config.estimator``.
        included_N: False for trajectories that take no part and get 0; None: all take part.

    Returns:
        Advantages [N, K], and what calibration did to them.

    Raises:
        ConfigError: The estimator returned something that is no advantage for every turn.
        DataError: Shapes that do not agree, rewards that are not finite, correctness outside of [0, 1].

    One question, three trajectories, each with a search turn of 10 tokens and an answer turn of 4. The second searched
    well and answered wrong:

    >>> advantages_NK, stats = calibrate(
    ...     [1.0, 0.0, 0.0],
    ...     group_ids=["q", "q", "q"],
    ...     correctness_NK=[[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]],
    ...     num_tokens_NK=[[10, 4], [10, 4], [10, 4]],
    ...     config=CalibrationConfig(rebalance_coef=2.0),
    ... )
    >>> stats.uncalibrated_NK.round(3)
    array([[ 1.155,  1.155],
           [-0.577, -0.577],
           [-0.577, -0.577]])
    >>> advantages_NK.round(3)
    array([[ 1.155,  2.309],
           [-0.289, -0.577],
           [-0.577, -0.577]])
    """
    config = CalibrationConfig() if config is None else config
    rewards_N, included_N = check_rewards(rewards_N, included_N=included_N)
    group_N = group_index(group_ids, num_trajectories=len(rewards_N))
    num_tokens_NK, correctness_NK = _check_turns(num_tokens_NK, correctness_NK, included_N=included_N)
    answer_NK = answer_turns(num_tokens_NK)
    answer_tokens_NK = np.where(answer_NK, num_tokens_NK, 0.0)
    search_tokens_NK = num_tokens_NK - answer_tokens_NK
    correctness_NK = np.where(search_tokens_NK > 0, correctness_NK, 0.0)

    batch = CreditBatch(
        rewards_N=rewards_N,
        group_N=group_N,
        included_N=included_N,
        num_tokens_NK=num_tokens_NK,
        answer_NK=answer_NK,
        correctness_NK=correctness_NK,
        document_ids_NK=document_ids(document_ids_NK, num_trajectories=len(rewards_N)),
    )
    before_NK = estimate(estimator or open_estimator(config.estimator), batch)
    after_NK = before_NK.copy()
    if config.soft_penalty == "shrink":
        after_NK = shrink_penalty(after_NK, correctness_NK=correctness_NK)
    elif config.soft_penalty == "interpolate":
        best_N = best_of_group(before_NK.max(axis=1, initial=0.0), group_N=group_N)
        after_NK = interpolate_penalty(after_NK, correctness_NK=correctness_NK, best_N=best_N)
    if config.rebalance != "none":
        rebalanced_NK = rebalance(
            after_NK,
            num_tokens_NK=answer_tokens_NK,
            group_N=group_N,
            coef=config.rebalance_coef,
            side=config.rebalance,
        )
        after_NK = np.where(answer_NK, rebalanced_NK, after_NK)

    return after_NK, measure(
        before_NK,
        after_NK=after_NK,
        correctness_NK=correctness_NK,
        answer_tokens_NK=answer_tokens_NK,
        search_tokens_NK=search_tokens_NK,
        group_N=group_N,
        included_N=included_N,
    )


def shrink_penalty(advantages_NK: Floats, *, correctness_NK: Floats) -> Floats:
    """Soft penalty of the paper: ``A * (1 - c)`` where ``A < 0``.

    >>> shrink_penalty(np.array([[-1.0, -1.0, 1.0]]), correctness_NK=np.array([[0.0, 0.75, 0.75]]))
    array([[-1.  , -0.25,  1.  ]])
    """
    shrunk_NK = advantages_NK * (1 - correctness_NK) + 0.0  # + 0.0: no negative zero
    return np.where(advantages_NK < 0, shrunk_NK, advantages_NK)


def interpolate_penalty(advantages_NK: Floats, *, correctness_NK: Floats, best_N: Floats) -> Floats:
    """Soft penalty, variant: ``A + (A_max - A) * c`` where ``A < 0``; a turn with c = 1 fares like the best.

    >>> interpolate_penalty(np.array([[-1.0, -1.0]]), correctness_NK=np.array([[0.0, 0.75]]), best_N=np.array([2.0]))
    array([[-1.  ,  1.25]])
    """
    towards_best_NK = advantages_NK + (best_N[:, None] - advantages_NK) * correctness_NK
    return np.where(advantages_NK < 0, towards_best_NK, advantages_NK)


def rebalance(
    advantages_NK: Floats,
    *,
    num_tokens_NK: Floats,
    group_N: Indices,
    coef: float,
    side: Literal["positive", "negative"] = "positive",
) -> Floats:
    """Scale one side of each group so that positive : negative mass, over the tokens given, is ``coef`` : 1.

    Source: the paper's rebalance of the answer turns, with ``coef`` its lambda; the negative side is a variant.

    With P and N the two masses: ``positive`` scales ``A > 0`` by ``coef * N / P``, ``negative`` scales ``A < 0`` by
    ``P / (coef * N)``. A group that has only one of the two gets 0: there is nothing to balance against.

    Two positive tokens against one negative; then a lone positive trajectory:

    >>> rebalance(
    ...     np.array([[0.5], [-0.5], [1.0]]),
    ...     num_tokens_NK=np.array([[2], [1], [1]]),
    ...     group_N=np.array([0, 0, 1]),
    ...     coef=1.0,
    ... )
    array([[ 0.25],
           [-0.5 ],
           [ 0.  ]])
    """
    positive_G, negative_G = group_mass(advantages_NK, num_tokens_NK=num_tokens_NK, group_N=group_N)
    both_G = (positive_G > 0) & (negative_G > 0)
    up_G, down_G = both_G.astype(np.float64), both_G.astype(np.float64)
    if side == "positive":
        up_G[both_G] = coef * negative_G[both_G] / positive_G[both_G]
    else:
        down_G[both_G] = positive_G[both_G] / (coef * negative_G[both_G])
    factor_NK = np.where(advantages_NK > 0, up_G[group_N][:, None], down_G[group_N][:, None])
    return advantages_NK * factor_NK + 0.0


def answer_turns(num_tokens_NK: Floats) -> Bools:
    """Mark the answer turn of each trajectory: its last turn with tokens, whether or not it holds an answer.

    >>> answer_turns(np.array([[5, 3, 0], [4, 0, 0], [0, 0, 0]]))
    array([[False,  True, False],
           [ True, False, False],
           [False, False, False]])
    """
    has_tokens_NK = num_tokens_NK > 0
    from_here_NK = np.cumsum(has_tokens_NK[:, ::-1], axis=1)[:, ::-1]  # turns with tokens, this one included
    marks_NK: Bools = has_tokens_NK & (from_here_NK == 1)
    return marks_NK


def best_of_group(advantages_N: Floats, *, group_N: Indices) -> Floats:
    """The best advantage in each trajectory's group, at least 0.

    >>> best_of_group(np.array([-1.0, 0.5, -2.0]), group_N=np.array([0, 0, 1]))
    array([0.5, 0.5, 0. ])
    """
    best_G = np.zeros(group_N.max(initial=-1) + 1)
    np.maximum.at(best_G, group_N, advantages_N)
    return best_G[group_N]


def _check_turns(
    num_tokens_NK: ArrayLike, correctness_NK: ArrayLike | None, *, included_N: Bools
) -> tuple[Floats, Floats]:
    """Token counts, 0 for trajectories that take no part, and query correctness, 0 where none is given."""
    num_tokens = np.asarray(num_tokens_NK, dtype=np.float64)
    if num_tokens.ndim != 2 or len(num_tokens) != len(included_N):
        raise DataError(f"num_tokens_NK must be [{len(included_N)}, turns], got shape {num_tokens.shape}")
    if not (np.isfinite(num_tokens) & (num_tokens >= 0)).all():
        raise DataError("num_tokens_NK must hold counts >= 0; use 0 for a turn that does not exist")
    num_tokens = np.where(included_N[:, None], num_tokens, 0.0)
    if correctness_NK is None:
        return num_tokens, np.zeros_like(num_tokens)
    correctness = np.nan_to_num(np.asarray(correctness_NK, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if correctness.shape != num_tokens.shape:
        raise DataError(f"correctness_NK has shape {correctness.shape}, num_tokens_NK {num_tokens.shape}; pad alike")
    if ((correctness < 0) | (correctness > 1)).any():
        raise DataError("correctness_NK must be in [0, 1], or NaN where none is given")
    return num_tokens, correctness
