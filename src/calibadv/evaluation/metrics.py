"""From trajectories to numbers: a grade each, then means with standard errors and bootstrap intervals.

The unit of chance is the question: the samples of one question are averaged first, and the bootstrap draws questions.

Shape suffixes: Q = questions, M = metrics, B = bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.rewards.format import is_well_formed
from calibadv.rewards.garbled import is_garbled
from calibadv.rewards.outcome import score_trajectory
from calibadv.trajectory import Trajectory

Floats = NDArray[np.float64]

METRICS = (
    "em", "cem", "f1", "reward", "format_valid", "garbled", "answered", "failed", "searches", "turns", "tokens",
)  # fmt: skip
NUM_DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What one trajectory is worth."""

    dataset: str
    question_id: str
    sample: int
    """Which of the question's rollouts, from 0."""
    values: dict[str, float]
    """One value for each of `METRICS`; yes and no are 1 and 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over questions, with how far chance may have moved it."""

    mean: float
    standard_error: float | None
    """None for a single question."""
    low: float
    """2.5 % quantile of the bootstrap."""
    high: float
    """97.5 % quantile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All metrics of one data set, or of all together."""

    name: str
    num_questions: int
    num_trajectories: int
    estimates: dict[str, Estimate]
    seconds: float
    """Wall clock of its rollouts."""


def grade(trajectory: Trajectory, *, score: str) -> Grade:
    """Grade a trajectory on what the model itself wrote; ``score`` names the score of the reward.

    A rollout that failed for a reason outside the policy scores 0, as any without an answer, and counts as failed.
    """
    scores = score_trajectory(trajectory)
    valid = is_well_formed(trajectory)
    return Grade(
        dataset=trajectory.question.dataset,
        question_id=trajectory.question.id,
        sample=trajectory.rollout_index,
        values={
            **scores,
            "reward": scores[score] if valid else 0.0,
            "format_valid": float(valid),
            "garbled": float(is_garbled(trajectory)),
            "answered": float(trajectory.answer is not None),
            "failed": float(trajectory.failed),
            "searches": float(len(trajectory.search_turns)),
            "turns": float(len(trajectory.turns)),
            "tokens": float(sum(len(turn.token_ids) for turn in trajectory.turns)),
        },
    )


def summarise(grades: Sequence[Grade], *, seconds: dict[str, float], seed: int = 0) -> list[Summary]:
    """One summary per data set; with several also ``all`` (questions count alike) and ``macro`` (data sets do).

    ``seconds`` gives each data set's wall clock. The draws of the bootstrap depend on ``seed`` only.
    """
    datasets = list(dict.fromkeys(g.dataset for g in grades))
    values_QM = {name: _question_means(g for g in grades if g.dataset == name) for name in datasets}
    draws_BM = {name: _draw_means(values_QM[name], seed=seed) for name in datasets}
    summaries = [
        Summary(
            name=name,
            num_questions=len(values_QM[name]),
            num_trajectories=sum(g.dataset == name for g in grades),
            estimates=_estimates(values_QM[name].mean(axis=0), _standard_errors(values_QM[name]), draws_BM[name]),
            seconds=seconds[name],
        )
        for name in datasets
    ]
    if len(datasets) < 2:
        return summaries
    everything_QM = np.concatenate(list(values_QM.values()))
    errors_M = np.sqrt(sum(_standard_errors(v) ** 2 for v in values_QM.values())) / len(datasets)
    means_M = np.mean([v.mean(axis=0) for v in values_QM.values()], axis=0)
    whole: dict[str, Any] = {
        "num_questions": len(everything_QM),
        "num_trajectories": len(grades),
        "seconds": math.fsum(seconds.values()),
    }
    pooled = _estimates(
        everything_QM.mean(axis=0), _standard_errors(everything_QM), _draw_means(everything_QM, seed=seed)
    )
    macro = _estimates(means_M, errors_M, np.mean(list(draws_BM.values()), axis=0))
    return [*summaries, Summary(name="all", estimates=pooled, **whole), Summary(name="macro", estimates=macro, **whole)]


def _question_means(grades: Iterable[Grade]) -> Floats:
    """Mean over the samples of each question, [num_questions, num_metrics]."""
    rows: dict[str, list[list[float]]] = {}
    for g in grades:
        rows.setdefault(g.question_id, []).append([g.values[name] for name in METRICS])
    return np.array([np.mean(samples, axis=0) for samples in rows.values()])


def _standard_errors(values_QM: Floats) -> Floats:
    if len(values_QM) < 2:
        return np.full(values_QM.shape[1], np.nan)
    errors_M: Floats = values_QM.std(axis=0, ddof=1) / math.sqrt(len(values_QM))
    return errors_M


def _draw_means(values_QM: Floats, *, seed: int) -> Floats:
    """Means of ``NUM_DRAWS`` draws of as many questions with replacement, [num_draws, num_metrics]."""
    num_questions = len(values_QM)
    rng = np.random.default_rng([seed, num_questions])
    means_BM = np.empty((NUM_DRAWS, values_QM.shape[1]))
    rows_at_once = max(1, 2_000_000 // num_questions)  # bounds the memory of the drawn counts
    for start in range(0, NUM_DRAWS, rows_at_once):
        stop = min(start + rows_at_once, NUM_DRAWS)
        counts_BQ = rng.multinomial(num_questions, np.full(num_questions, 1 / num_questions), size=stop - start)
        means_BM[start:stop] = counts_BQ @ values_QM / num_questions
    return means_BM


def _estimates(means_M: Floats, errors_M: Floats, draws_BM: Floats) -> dict[str, Estimate]:
    low_M, high_M = np.quantile(draws_BM, [0.025, 0.975], axis=0)
    return {
        name: Estimate(
            mean=float(means_M[m]),
            standard_error=None if math.isnan(errors_M[m]) else float(errors_M[m]),
            low=float(low_M[m]),
            high=float(high_M[m]),
        )
        for m, name in enumerate(METRICS)
    }
