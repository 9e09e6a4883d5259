"""Plots against the training step: a curve an arm, the mean over its seeds, in a band from lowest to highest seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from calibadv.report.read_runs import Arm, Floats
from calibadv.report.style import NEGATIVE, POSITIVE, colour, legend, marker, not_recorded

STEP_LABEL = "training step"
# Metric, colour, line, width. Rebalancing with coefficient 1 lays the "after" lines on each other: the lower is wide.
MASS_LINES = (
    ("positive_mass_before", POSITIVE, "--", 1.1),
    ("negative_mass_before", NEGATIVE, "--", 1.1),
    ("negative_mass_after", NEGATIVE, "-", 3.6),
    ("positive_mass_after", POSITIVE, "-", 1.5),
)


def over_seeds(arm: Arm, key: str) -> tuple[Floats, Floats, Floats, Floats]:
    """Steps, and the mean, lowest and highest value over the seeds that have the step."""
    values_at: dict[float, list[float]] = {}
    for run in arm.runs:
        for step, value in zip(*run.series(key), strict=True):
            values_at.setdefault(float(step), []).append(float(value))
    steps = sorted(values_at)
    columns = [values_at[step] for step in steps]
    return (
        np.array(steps),
        np.array([np.mean(c) for c in columns]),
        np.array([min(c) for c in columns]),
        np.array([max(c) for c in columns]),
    )


def window_of(num_steps: int) -> int:
    """Steps that a curve averages: none for short runs, a twentieth of long ones."""
    return 1 if num_steps < 30 else max(3, num_steps // 20)


def smooth(values: Floats, window: int) -> Floats:
    """Mean of the last ``window`` values, of fewer at the start.

    >>> smooth(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [1.0, 2.0, 4.0]
    """
    return np.array([values[max(0, i - window + 1) : i + 1].mean() for i in range(len(values))])


def curve(
    ax: Axes, arms: Sequence[Arm], key: str, *, label: str, limits: tuple[float, float] | None = None, log: bool = False
) -> None:
    """Draw a metric of every arm, or "not recorded" when none has it; ``log`` needs values that span a decade."""
    lowest, highest = np.inf, -np.inf
    longest = 1
    for index, arm in enumerate(arms):
        steps, mean, low, high = over_seeds(arm, key)
        if not len(steps):
            continue
        window = window_of(len(steps))
        longest = max(longest, window)
        if len(arm.runs) > 1:
            ax.fill_between(
                steps, smooth(low, window), smooth(high, window), color=colour(index), alpha=0.15, linewidth=0
            )
        elif window > 1:
            ax.plot(steps, mean, color=colour(index), alpha=0.3, linewidth=0.8)
        name = arm.name if len(arm.runs) == 1 else f"{arm.name} ({len(arm.runs)} seeds)"
        ax.plot(
            steps,
            smooth(mean, window),
            color=colour(index),
            marker=marker(index),
            markevery=[-1],
            markersize=5,
            label=name,
        )
        lowest, highest = min(lowest, mean.min()), max(highest, mean.max())
    if not np.isfinite(lowest):
        not_recorded(ax, [key])
        return
    ax.set_xlabel(STEP_LABEL if longest == 1 else f"{STEP_LABEL} (curve: mean of the last {longest})")
    ax.set_ylabel(label)
    if limits is not None:
        ax.set_ylim(*limits)
    elif log and lowest > 0 and highest >= 10 * lowest:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.margins(x=0.02)


def one_curve(
    figure: Figure, arms: Sequence[Arm], key: str, *, label: str, limits: tuple[float, float] | None = None
) -> None:
    curve(figure.subplots(), arms, key, label=label, limits=limits)
    legend(figure)


def two_curves(
    figure: Figure,
    arms: Sequence[Arm],
    keys: tuple[str, str],
    *,
    labels: tuple[str, str],
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> None:
    """Two metrics side by side."""
    for ax, key, label in zip(figure.subplots(1, 2), keys, labels, strict=True):
        curve(ax, arms, key, label=label, limits=limits, log=log)
    legend(figure)


def advantage_mass(figure: Figure, arms: Sequence[Arm]) -> None:
    """Positive against negative advantage mass before and after calibration, a column an arm."""
    axes = figure.subplots(2, len(arms), squeeze=False, sharex="col")
    for column, arm in enumerate(arms):
        for row, (prefix, turns) in enumerate((("", "answer turns"), ("search_", "search turns"))):
            ax = axes[row][column]
            drawn = False
            for key, ink, line, wide in MASS_LINES:
                steps, mean, _, _ = over_seeds(arm, f"{prefix}{key}")
                after = over_seeds(arm, f"{prefix}{key.replace('before', 'after')}")[1]
                unchanged = key.endswith("before") and np.array_equal(mean, after)  # by a run without calibration
                if len(steps) and not unchanged:
                    # Masses are drawn as sizes, whichever sign the negative one was written with.
                    values = smooth(np.abs(mean), window_of(len(steps)))
                    name = key.replace("_mass_", ", ") + " calibration"
                    ax.plot(steps, values, color=ink, linestyle=line, linewidth=wide, label=name)
                    drawn = True
            if not drawn:
                not_recorded(ax, [f"{prefix}positive_mass_before", "..."])
                continue
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            if row == 0:
                ax.set_title(arm.name)
            else:
                ax.set_xlabel(STEP_LABEL)
            if column == 0:
                ax.set_ylabel(f"{turns}\nsum of |advantage|\nover tokens")
    legend(figure)
