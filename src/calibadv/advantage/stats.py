"""What calibration did to a batch: penalties forgiven, and positive and negative advantage mass before and after.

These are the numbers behind the paper's plots of mis-penalised search turns, and behind our own of advantage mass.

Shape suffixes: N = trajectories of the batch, K = turns (padded), G = groups of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibadv.advantage.grpo import Bools, Floats, Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageMass:
    """Sum over tokens of the positive advantages, and of the negative ones without their sign."""

    positive: float
    negative: float

    @property
    def ratio(self) -> float | None:
        """Positive over negative; None without negative mass."""
        return self.positive / self.negative if self.negative else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationStats:
    """What calibration did to a batch, with the mass before and after."""

    uncalibrated_NK: Floats
    """The estimator's advantage of each turn, before soft penalty and rebalance."""
    search_turns: int
    """Turns with tokens before their trajectory's answer turn."""
    mispenalised_turns: int
    """Search turns of negative trajectories that found silver documents (c > 0), whether or not they were forgiven."""
    groups: int
    """Groups with at least one trajectory that takes part."""
    groups_without_signal: int
    """Groups in which every advantage is 0: nothing to learn."""
    groups_one_sided: int
    """Groups whose answer turns have only positive or only negative mass: the rebalance sets them to 0."""
    answer_before: AdvantageMass
    answer_after: AdvantageMass
    search_before: AdvantageMass
    search_after: AdvantageMass

    @property
    def mispenalised_share(self) -> float:
        """`mispenalised_turns` among all search turns; 0 if there are none."""
        return self.mispenalised_turns / max(1, self.search_turns)

    def as_metrics(self) -> dict[str, float]:
        """Flat names and numbers, for logging; the mass of the answer turns has no prefix."""
        metrics: dict[str, float] = {
            "mispenalised_turns": self.mispenalised_turns,
            "mispenalised_share": self.mispenalised_share,
            "groups_without_signal": self.groups_without_signal,
            "groups_one_sided": self.groups_one_sided,
        }
        for prefix, before, after in (
            ("", self.answer_before, self.answer_after),
            ("search_", self.search_before, self.search_after),
        ):
            metrics[f"{prefix}positive_mass_before"] = before.positive
            metrics[f"{prefix}negative_mass_before"] = before.negative
            metrics[f"{prefix}positive_mass_after"] = after.positive
            metrics[f"{prefix}negative_mass_after"] = after.negative
        return metrics


def measure(
    before_NK: Floats,
    *,
    after_NK: Floats,
    correctness_NK: Floats,
    answer_tokens_NK: Floats,
    search_tokens_NK: Floats,
    group_N: Indices,
    included_N: Bools,
) -> CalibrationStats:
    """Compare the advantages of a batch before and after calibration."""
    present_G = np.bincount(group_N, included_N) > 0
    signal_G = np.bincount(group_N, before_NK.any(axis=1)) > 0
    positive_G, negative_G = group_mass(before_NK, num_tokens_NK=answer_tokens_NK, group_N=group_N)
    return CalibrationStats(
        uncalibrated_NK=before_NK,
        search_turns=int((search_tokens_NK > 0).sum()),
        mispenalised_turns=int(((before_NK < 0) & (correctness_NK > 0)).sum()),
        groups=int(present_G.sum()),
        groups_without_signal=int((present_G & ~signal_G).sum()),
        groups_one_sided=int(((positive_G > 0) != (negative_G > 0)).sum()),
        answer_before=_total_mass(before_NK, answer_tokens_NK),
        answer_after=_total_mass(after_NK, answer_tokens_NK),
        search_before=_total_mass(before_NK, search_tokens_NK),
        search_after=_total_mass(after_NK, search_tokens_NK),
    )


def group_mass(advantages_NK: Floats, *, num_tokens_NK: Floats, group_N: Indices) -> tuple[Floats, Floats]:
    """Sum over tokens of each group's positive advantages, and of its negative ones without their sign.

    >>> group_mass(np.array([[2.0], [-1.0]]), num_tokens_NK=np.array([[3.0], [4.0]]), group_N=np.array([0, 0]))
    (array([6.]), array([4.]))
    """
    mass_NK = advantages_NK * num_tokens_NK
    positive_G: Floats = np.bincount(group_N, np.maximum(mass_NK, 0.0).sum(axis=1)).astype(np.float64)
    negative_G: Floats = np.bincount(group_N, np.maximum(-mass_NK, 0.0).sum(axis=1)).astype(np.float64)
    return positive_G, negative_G


def _total_mass(advantages_NK: Floats, num_tokens_NK: Floats) -> AdvantageMass:
    mass_NK = advantages_NK * num_tokens_NK
    positive, negative = np.maximum(mass_NK, 0.0).sum(), np.maximum(-mass_NK, 0.0).sum()
    return AdvantageMass(positive=float(positive), negative=float(negative))
