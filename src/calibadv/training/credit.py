"""Rewards, query correctness and calibrated advantages of a whole batch, with every number that the paper plots.

Pure functions over `Outcome` records, which are small enough to be gathered from all processes: silver documents and
group statistics are always computed over the gathered batch, wherever its groups were played.

Shape suffixes: N = trajectories of the batch, K = turns (padded), T = tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.advantage import (
    CalibrationConfig,
    Estimator,
    SilverStats,
    TrajectoryEvidence,
    calibrate,
    query_correctness,
)
from calibadv.rewards.outcome import SCORES
from calibadv.rewards.perplexity import is_garbled
from calibadv.rewards.reward import Reward, scored
from calibadv.trajectory import ActionKind, Credit, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What credit assignment and the metrics need to know of one trajectory."""

    group_id: str
    reward: float
    scores: Mapping[str, float]
    garbled: bool
    failed: bool
    stop_reason: str
    evidence: TrajectoryEvidence
    is_search: tuple[bool, ...]  # [num_turns] a search that was carried out
    num_tokens: tuple[int, ...]  # [num_turns]
    logprob_sums: tuple[float, ...]  # [num_turns] of the sampled tokens

    @classmethod
    def of(cls, trajectory: Trajectory, *, group_id: str, score: str, reward: Reward | None = None) -> Outcome:
        """Grade one trajectory, once; a failed one has reward 0.

        Args:
            trajectory: What was played.
            group_id: Names its group; one question has one.
            score: Name of the score that makes documents silver, and that the outcome reward takes.
            reward: Another reward than the outcome reward.
        """
        verdict = scored(trajectory, score=score, reward=reward)
        return cls(
            group_id=group_id,
            reward=verdict.reward,
            scores=verdict.scores,
            garbled=is_garbled(trajectory),
            failed=trajectory.failed,
            stop_reason=trajectory.stop_reason.value,
            evidence=TrajectoryEvidence.from_trajectory(
                trajectory, score=verdict.scores[score], format_valid=verdict.format_valid
            ),
            is_search=tuple(t.action.kind is ActionKind.SEARCH and bool(t.observation) for t in trajectory.turns),
            num_tokens=tuple(len(t.token_ids) for t in trajectory.turns),
            logprob_sums=tuple(math.fsum(t.logprobs) for t in trajectory.turns),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCredit:
    """Advantages per turn before and after calibration, and what the batch was like."""

    before_NK: NDArray[np.float64]
    after_NK: NDArray[np.float64]
    correctness_NK: NDArray[np.float64]
    """NaN where none was given."""
    metrics: dict[str, Any]

    def of(self, row: int, outcome: Outcome) -> Credit:
        """The record of one trajectory's credit, for storage."""
        num_turns = len(outcome.num_tokens)
        correctness = self.correctness_NK[row, :num_turns]
        return Credit(
            group_id=outcome.group_id,
            reward=outcome.reward,
            scores=dict(outcome.scores),
            format_valid=outcome.evidence.format_valid,
            garbled=outcome.garbled,
            correctness=None if np.isnan(correctness).all() else tuple(np.nan_to_num(correctness).tolist()),
            advantages=tuple(self.before_NK[row, :num_turns].tolist()),
            calibrated=tuple(self.after_NK[row, :num_turns].tolist()),
        )


def assign_credit(
    outcomes: Sequence[Outcome], *, config: CalibrationConfig, estimator: Estimator | None = None
) -> BatchCredit:
    """Advantages with soft penalty and rebalance as ``config`` says. Failed trajectories take no part.

    Args:
        outcomes: The whole batch, all questions, from all processes.
        config: The settings of the method; `CalibrationConfig.plain` is an estimator alone.
        estimator: In the place of ``config.estimator``.
    """
    group_ids = [o.group_id for o in outcomes]
    included_N = takes_part(outcomes)
    rewards_N = np.array([o.reward for o in outcomes])
    num_tokens_NK = padded([o.num_tokens for o in outcomes]).astype(np.int64)
    correctness_NK, silver = query_correctness(
        [o.evidence for o in outcomes],
        group_ids=group_ids,
        variant=config.correctness,
        silver_threshold=config.silver_threshold,
        included_N=included_N,
    )
    after_NK, stats = calibrate(
        rewards_N,
        group_ids=group_ids,
        correctness_NK=correctness_NK,
        num_tokens_NK=num_tokens_NK,
        document_ids_NK=[[turn.document_ids for turn in o.evidence.turns] for o in outcomes],
        config=config,
        estimator=estimator,
        included_N=included_N,
    )
    metrics = batch_metrics(outcomes) | silver_metrics(silver) | stats.as_metrics()
    for name in ("groups_without_signal", "groups_one_sided"):  # shares, like the other metrics of groups
        metrics[name] /= max(1, stats.groups)
    return BatchCredit(
        before_NK=stats.uncalibrated_NK, after_NK=after_NK, correctness_NK=correctness_NK, metrics=metrics
    )


def takes_part(outcomes: Sequence[Outcome]) -> NDArray[np.bool_]:
    """Which trajectories count, shape [N]: those that did not fail, unless all others of their group did.

    A lone survivor has nothing to be compared with; as a group of one its reward would become its advantage.
    """
    played = Counter(o.group_id for o in outcomes)
    alive = Counter(o.group_id for o in outcomes if not o.failed)
    return np.array([not o.failed and (alive[o.group_id] > 1 or played[o.group_id] == 1) for o in outcomes])


def padded(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Ragged rows as an array, 0 at the end of short ones."""
    array = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for n, row in enumerate(rows):
        array[n, : len(row)] = row
    return array


def batch_metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Means over the trajectories that did not fail; entropy is estimated by -log p of the sampled tokens."""
    alive = [o for o in outcomes if not o.failed]
    tokens_NK = padded([o.num_tokens for o in alive])
    nll_NK = -padded([o.logprob_sums for o in alive])
    search_NK = padded([o.is_search for o in alive]).astype(bool)
    answer_NK = np.zeros_like(search_NK)
    for n, outcome in enumerate(alive):
        if outcome.num_tokens:
            answer_NK[n, len(outcome.num_tokens) - 1] = True
    search_NK &= ~answer_NK
    return {
        "reward": mean([o.reward for o in alive]),
        **{name: mean([o.scores[name] for o in alive]) for name in SCORES},
        "format_valid": mean([o.evidence.format_valid for o in alive]),
        "garbled": mean([o.garbled for o in alive]),
        "searches": mean([sum(o.is_search) for o in alive]),
        "turns": mean([len(o.num_tokens) for o in alive]),
        "tokens": mean([sum(o.num_tokens) for o in alive]),
        "answered": mean([o.stop_reason == "answer" for o in alive]),
        "failed_rollouts": len(outcomes) - len(alive),
        "entropy": token_mean(nll_NK, tokens_NK),
        "entropy_search": token_mean(nll_NK[search_NK], tokens_NK[search_NK]),
        "entropy_answer": token_mean(nll_NK[answer_NK], tokens_NK[answer_NK]),
        "perplexity_search": perplexity(nll_NK[search_NK], tokens_NK[search_NK]),
        "perplexity_answer": perplexity(nll_NK[answer_NK], tokens_NK[answer_NK]),
    }


def silver_metrics(silver: SilverStats) -> dict[str, Any]:
    """Plots 3, 4, 5 and 10."""
    return {
        "groups_without_silver": silver.share_without_silver,
        "silver_counts": list(silver.silver_counts),
        "correctness_mean": silver.correctness_mean,
        "correctness_values": [round(value, 4) for value in silver.correctness_values],
    }


def mean(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return float(np.mean(values)) if values else None


def token_mean(sums: NDArray[np.float64], tokens: NDArray[np.float64]) -> float | None:
    """Sum of sums over sum of tokens, or None without a token."""
    return float(sums.sum() / tokens.sum()) if tokens.sum() else None


def perplexity(nll: NDArray[np.float64], tokens: NDArray[np.float64]) -> float | None:
    """Median over turns of exp(mean negative log-probability), or None without a turn."""
    has = tokens > 0
    return float(np.median(np.exp(nll[has] / tokens[has]))) if has.any() else None
