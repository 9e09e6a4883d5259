"""From grades to figures: means over questions with standard errors and bootstrap intervals, per data set and together.

The unit of chance is the question: the samples of one question are averaged first, and the bootstrap draws questions.

Shape suffixes: Q = questions, M = metrics, B = bootstrap draws.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import DataError
from calibadv.evaluation.grade import METRICS, OPTIONAL, Grade

Floats = NDArray[np.float64]

NUM_DRAWS = 1000
PASS = "pass@"
AVERAGES = ("all", "macro")
"""Over several data sets: questions count alike, data sets do."""


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
    """Every metric that is known for all of the trajectories, and ``pass@k`` when questions have several samples."""
    seconds: float
    """Wall clock of its rollouts."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that at least one of ``k`` samples is right, estimated without bias from ``num_samples >= k`` of them.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
    (0.25, 0.5, 1.0)
    """
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def pass_ks(num_samples: int) -> list[int]:
    """The k that are reported: powers of two and the number of samples itself; none for a single sample.

    >>> pass_ks(1), pass_ks(6)
    ([], [1, 2, 4, 6])
    """
    if num_samples < 2:
        return []
    return sorted({2**power for power in range(num_samples.bit_length()) if 2**power <= num_samples} | {num_samples})


def check_names(datasets: Collection[str]) -> None:
    """Refuse several data sets of which one has the name of an average."""
    for name in AVERAGES:
        if len(datasets) > 1 and name in datasets:
            raise DataError(f"data set {name!r}: an average over several data sets has this name; rename the data set")


def summarise(grades: Sequence[Grade], *, seconds: Mapping[str, float], seed: int = 0) -> list[Summary]:
    """One summary per data set; with several also ``all`` (questions count alike) and ``macro`` (data sets do).

    ``seconds`` gives each data set's wall clock. The draws of the bootstrap depend on ``seed``, the data set's name and
    its size only.
    """
    names = metrics_of(grades)
    samples: dict[str, dict[str, list[Grade]]] = {}
    for g in grades:
        samples.setdefault(g.dataset, {}).setdefault(g.question_id, []).append(g)
    check_names(samples)
    ks = pass_ks(_samples_each(samples))
    values_QM = {name: _question_values(list(asked.values()), names, ks) for name, asked in samples.items()}
    draws_BM = {name: draw_means(values, name=name, seed=seed) for name, values in values_QM.items()}
    columns = [*names, *(f"{PASS}{k}" for k in ks)]
    summaries = [
        Summary(
            name=name,
            num_questions=len(values),
            num_trajectories=sum(map(len, samples[name].values())),
            estimates=_estimates(columns, values.mean(axis=0), _standard_errors(values), draws_BM[name]),
            seconds=seconds[name],
        )
        for name, values in values_QM.items()
    ]
    if len(summaries) < 2:
        return summaries
    num_questions = sum(map(len, values_QM.values()))
    whole: dict[str, Any] = {
        "num_questions": num_questions,
        "num_trajectories": len(grades),
        "seconds": math.fsum(seconds[name] for name in samples),
    }
    micro = [len(values) / num_questions for values in values_QM.values()]
    macro = [1 / len(values_QM)] * len(values_QM)
    for name, weights in zip(AVERAGES, (micro, macro), strict=True):
        estimates = _together(columns, list(values_QM.values()), list(draws_BM.values()), weights)
        summaries.append(Summary(name=name, estimates=estimates, **whole))
    return summaries


def _together(
    columns: Sequence[str], values: Sequence[Floats], draws: Sequence[Floats], weights: Sequence[float]
) -> dict[str, Estimate]:
    """Weighted mean over data sets. Their sizes are no matter of chance, so the draws are those within each."""
    means_M: Floats = np.sum([w * v.mean(axis=0) for w, v in zip(weights, values, strict=True)], axis=0)
    errors = [w * _standard_errors(v) for w, v in zip(weights, values, strict=True)]
    errors_M: Floats = np.sqrt(np.sum(np.square(errors), axis=0))
    draws_BM: Floats = np.sum([w * d for w, d in zip(weights, draws, strict=True)], axis=0)
    return _estimates(columns, means_M, errors_M, draws_BM)


def metrics_of(grades: Sequence[Grade]) -> list[str]:
    """The metrics that every grade has, in the order of tables."""
    return [name for name in (*METRICS, *OPTIONAL) if all(name in g.values for g in grades)]


def _samples_each(samples: Mapping[str, Mapping[str, Sequence[Grade]]]) -> int:
    """How many samples every question has; 1 when that differs, since pass@k then has no common k."""
    counts = {len(of_question) for asked in samples.values() for of_question in asked.values()}
    return counts.pop() if len(counts) == 1 else 1


def _question_values(questions: Sequence[Sequence[Grade]], names: Sequence[str], ks: Sequence[int]) -> Floats:
    """Per question the mean of each metric over its samples, then pass@k, [num_questions, num_metrics]."""
    rows = []
    for samples in questions:
        means = [math.fsum(g.values[name] for g in samples) / len(samples) for name in names]
        correct = sum(g.values["em"] == 1.0 for g in samples)
        rows.append([*means, *(pass_at_k(len(samples), correct, k) for k in ks)])
    return np.array(rows, dtype=np.float64)


def _standard_errors(values_QM: Floats) -> Floats:
    if len(values_QM) < 2:
        return np.full(values_QM.shape[1], np.nan)
    errors_M: Floats = values_QM.std(axis=0, ddof=1) / math.sqrt(len(values_QM))
    return errors_M


def draw_means(values_QM: Floats, *, name: str, seed: int) -> Floats:
    """Means of ``NUM_DRAWS`` draws of as many questions with replacement, [num_draws, num_metrics]."""
    num_questions = len(values_QM)
    # The name keeps the draws of equally large data sets apart; their average would otherwise vary in step.
    rng = np.random.default_rng([seed % 2**64, zlib.crc32(name.encode()), num_questions])
    means_BM = np.empty((NUM_DRAWS, values_QM.shape[1]))
    for b in range(NUM_DRAWS):
        drawn = rng.integers(num_questions, size=num_questions)
        means_BM[b] = np.bincount(drawn, minlength=num_questions).astype(np.float64) @ values_QM
    return means_BM / num_questions


def _estimates(columns: Sequence[str], means_M: Floats, errors_M: Floats, draws_BM: Floats) -> dict[str, Estimate]:
    low_M, high_M = np.quantile(draws_BM, [0.025, 0.975], axis=0)
    return {
        name: Estimate(
            mean=float(means_M[m]),
            standard_error=None if math.isnan(errors_M[m]) else float(errors_M[m]),
            low=float(low_M[m]),
            high=float(high_M[m]),
        )
        for m, name in enumerate(columns)
    }
