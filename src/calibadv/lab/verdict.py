"""What a lab has shown, in words: the difference between its arms with a 95 % interval, and which arms collapsed.

Two kinds of chance are in a difference of test F1: which questions were asked, and how training went. With one seed
only the first can be estimated; with several both are, by a two-way analysis of variance over seeds and questions.

Shape suffixes: S = seeds, Q = test questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# 97.5 % quantile of Student's t; linear in 1/df between these, which is never too small.
_DEGREES = (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, math.inf)
_QUANTILES = (12.706, 6.017, 4.303, 3.182, 2.776, 2.571, 2.447, 2.306, 2.228, 2.131, 2.086, 2.042, 2.000, 1.980, 1.960)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    """The test of one finished run, before and after training."""

    arm: str
    seed: int
    before: Sequence[float]
    """F1 of each test question, in the order of the test set."""
    after: Sequence[float]
    """The same questions after training."""
    collapsed: bool = False
    """Whether training ended far below its best."""
    other_questions: bool = False
    """Whether the arm changes which questions are asked, so that it cannot be compared."""


class Interval(NamedTuple):
    """A mean with half the width of its 95 % interval."""

    mean: float
    margin: float

    @property
    def excludes_zero(self) -> bool:
        """Whether chance alone is an unlikely explanation."""
        return abs(self.mean) > self.margin

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.margin:.3f} F1"


def t_quantile(df: float) -> float:
    """The 97.5 % quantile of Student's t distribution.

    >>> t_quantile(2), round(t_quantile(1000), 2)
    (4.303, 1.96)
    """
    return float(np.interp(1 / df, [1 / d for d in _DEGREES[::-1]], _QUANTILES[::-1]))


def interval_of(differences_SQ: Floats) -> Interval:
    """The mean of paired differences over seeds and questions, and its margin for new questions (and new seeds).

    With several seeds Var(mean) = (MS_seeds + MS_questions - MS_residual) / (S Q), at least the larger of the first two
    terms; the degrees of freedom are Satterthwaite's.
    """
    num_seeds, num_questions = differences_SQ.shape
    mean = float(differences_SQ.mean())
    if num_questions < 2:
        return Interval(mean, math.inf)
    by_question_Q = differences_SQ.mean(axis=0)
    if num_seeds == 1:
        error = float(by_question_Q.std(ddof=1)) / math.sqrt(num_questions)
        return Interval(mean, t_quantile(num_questions - 1) * error)
    by_seed_S = differences_SQ.mean(axis=1)
    residual_SQ = differences_SQ - by_seed_S[:, None] - by_question_Q[None, :] + mean
    df = np.array([num_seeds - 1, num_questions - 1, (num_seeds - 1) * (num_questions - 1)])
    squares = np.array(
        [
            num_questions * np.square(by_seed_S - mean).sum(),
            num_seeds * np.square(by_question_Q - mean).sum(),
            np.square(residual_SQ).sum(),
        ]
    )
    seeds, questions, residual = squares / df
    variance = max(seeds + questions - residual, seeds, questions)
    if variance == 0:
        return Interval(mean, 0.0)
    freedom = max(1.0, float(variance**2 / np.sum(np.square(squares / df) / df)))
    return Interval(mean, t_quantile(freedom) * math.sqrt(variance / (num_seeds * num_questions)))


def verdict(runs: Sequence[RunScores], *, preset: str = "default", missing: Sequence[str] = ()) -> str:
    """Sentences about finished runs; the first arm is what the others are compared with.

    ``missing`` names runs that have no figures.
    """
    arms: dict[str, list[RunScores]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    said: list[str] = []
    if len(arms) == 1:
        ((name, only),) = arms.items()
        gain = interval_of(np.array([np.subtract(run.after, run.before) for run in only]))
        said.append(f"{name}: {gain} from before to after training ({_seeds(len(only))}).")
    elif arms:
        said += _compared(arms, preset=preset)
    fallen = [_fallen(name, of_arm) for name, of_arm in arms.items() if any(run.collapsed for run in of_arm)]
    if fallen:
        said.append(f"Collapsed: {', '.join(fallen)}.")
    if missing:
        said.append(f"Without figures: {', '.join(missing)}.")
    return " ".join(said) or "No run has finished."


def _compared(arms: dict[str, list[RunScores]], *, preset: str) -> list[str]:
    """A sentence for every arm but the first, and what would tell more."""
    base, *others = arms
    said: list[str] = []
    equal, fewest = True, math.inf
    for name in others:
        pairs = _pairs(arms[name], arms[base])
        if not pairs:
            said.append(f"{name} and {base} cannot be compared: no seed of both was tested on the same questions.")
            continue
        fewest = min(fewest, len(pairs))
        interval = interval_of(np.array([np.subtract(a.after, b.after) for a, b in pairs]))
        if interval.excludes_zero:
            equal = False
            where = "above" if interval.mean > 0 else "below"
            said.append(f"{name} ends {where} {base}: {interval} ({_seeds(len(pairs))}).")
        else:
            said.append(f"No clear difference here: {name} - {base} = {interval} ({_seeds(len(pairs))}).")
    if fewest == 1:
        said.append("One seed: the interval holds the chance of the test alone, not that of training.")
    if equal and said and preset == "default":
        said.append("--preset aggressive --seeds 5 is where it matters.")
    elif equal and fewest < 5:
        said.append("More seeds narrow the interval: --seeds 5.")
    return said


def _pairs(ours: Sequence[RunScores], theirs: Sequence[RunScores]) -> list[tuple[RunScores, RunScores]]:
    """Runs of one seed that were asked the same questions."""
    by_seed = {run.seed: run for run in theirs}
    return [
        (run, other)
        for run in ours
        if (other := by_seed.get(run.seed)) is not None
        and not (run.other_questions or other.other_questions)
        and len(run.after) == len(other.after)
    ]


def _fallen(name: str, runs: Sequence[RunScores]) -> str:
    count = sum(run.collapsed for run in runs)
    return f"{name} ({count} of {_seeds(len(runs))})"


def _seeds(count: int) -> str:
    return f"{count} seed" + ("" if count == 1 else "s")
