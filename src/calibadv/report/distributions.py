"""Plots without a time axis: distributions over a whole run, the arms' test scores, where the time went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibadv.report.read_runs import Arm, Floats, is_number
from calibadv.report.style import GREY, INK, colour, legend, marker, not_recorded

SECONDS = {
    "seconds_generate": "generate",
    "seconds_search": "wait for searches",
    "seconds_logprob": "log-probabilities",
    "seconds_update": "update",
    "seconds_scheduler": "episodes",
    "seconds_storage": "storage",
    "seconds_eval": "evaluation",
    "seconds_other": "other",
}
"""Names for the parts of a batch; a run may name more."""


def histogram(figure: Figure, arms: Sequence[Arm], key: str, *, edges: Floats, label: str, what: str) -> None:
    """Share of the values in each bin, arms side by side."""
    ax = figure.subplots()
    pooled = [(arm, np.concatenate([run.pooled(key) for run in arm.runs])) for arm in arms]
    if not any(len(values) for _, values in pooled):
        not_recorded(ax, [key])
        return
    centres = (edges[:-1] + edges[1:]) / 2
    width = 0.8 * float(edges[1] - edges[0]) / len(pooled)
    for index, (arm, values) in enumerate(pooled):
        if not len(values):
            continue
        counts, _ = np.histogram(values, bins=edges)
        place = centres + (index - (len(pooled) - 1) / 2) * width
        ax.bar(
            place, 100 * counts / len(values), width=width, color=colour(index), label=f"{arm.name} (n = {len(values)})"
        )
    ax.set_xlabel(label)
    ax.set_ylabel(f"share of {what} (%)")
    ax.grid(visible=False, axis="x")
    legend(figure, at_least=1)


def silver_counts(figure: Figure, arms: Sequence[Arm]) -> None:
    most = max((run.pooled("silver_counts").max(initial=0) for arm in arms for run in arm.runs), default=0)
    edges = np.arange(-0.5, max(most, 5) + 1)
    histogram(figure, arms, "silver_counts", edges=edges, label="silver documents of a group", what="groups")


def correctness_values(figure: Figure, arms: Sequence[Arm]) -> None:
    edges = np.arange(-0.05, 1.1, 0.1)
    histogram(figure, arms, "correctness_values", edges=edges, label="query correctness", what="search turns")


def parts_of_a_batch(arms: Sequence[Arm]) -> list[str]:
    """Metrics of seconds that make up a batch: the known ones first, "other" last."""
    keys = {k for arm in arms for run in arm.runs for row in run.rows for k in row if k.startswith("seconds_")}
    keys.discard("seconds_step")
    order = list(SECONDS)
    known = [key for key in order[:-1] if key in keys]
    return known + sorted(keys - set(order)) + [key for key in order[-1:] if key in keys]


def time_split(figure: Figure, arms: Sequence[Arm]) -> None:
    """Mean seconds of a batch, a bar an arm, cut into what they were spent on."""
    ax = figure.subplots()
    keys = parts_of_a_batch(arms)
    if not keys:
        not_recorded(ax, ["seconds_generate", "..."])
        return
    left = np.zeros(len(arms))
    for index, key in enumerate(keys):
        pooled = [np.concatenate([run.series(key)[1] for run in arm.runs]) for arm in arms]
        seconds = np.array([values.mean() if len(values) else 0.0 for values in pooled])
        ink = GREY if key == "seconds_other" else colour(index)
        name = SECONDS.get(key, key.removeprefix("seconds_").replace("_", " "))
        ax.barh(range(len(arms)), seconds, left=left, color=ink, height=0.6, label=name)
        left += seconds
    for row, seconds_a_batch in enumerate(left):
        ax.text(seconds_a_batch, row, f"  {seconds_a_batch:.2f} s", va="center", fontsize=8.5)
    ax.set_yticks(range(len(arms)), [arm.name for arm in arms])
    ax.invert_yaxis()
    ax.set_xlabel("mean time of a batch, rollouts and updates (s)")
    ax.margins(x=0.12)
    ax.grid(visible=False, axis="y")
    legend(figure, at_least=1)


def scores_before_and_after(figure: Figure, arms: Sequence[Arm]) -> None:
    """Test F1 of each arm before and after training: a dot a seed, a bar at their mean."""
    ax = figure.subplots()
    drawn = False
    for column, arm in enumerate(arms):
        before = score_dots(ax, arm, "f1_before", column - 0.18, ink=GREY, shape=marker(column))
        after = score_dots(ax, arm, "f1_after", column + 0.18, ink=colour(column), shape=marker(column))
        drawn |= bool(before or after)
        if len(before) == len(after):
            ax.plot([column - 0.1, column + 0.1], [before, after], color=GREY, linewidth=0.7, alpha=0.6)
        collapsed = sum(bool(run.result.get("collapsed")) for run in arm.runs)
        if collapsed:
            note = "collapsed" if len(arm.runs) == 1 else f"{collapsed} of {len(arm.runs)} collapsed"
            ax.text(column, 0.02, note, ha="center", fontsize=8, color="#B00020")
    if not drawn:
        not_recorded(ax, ["f1_before", "f1_after"])
        return
    ax.set_xticks(range(len(arms)), [arm.name for arm in arms])
    ax.set_ylabel("test F1  (grey: before training)")
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.grid(visible=False, axis="x")


def score_dots(ax: Axes, arm: Arm, key: str, place: float, *, ink: str, shape: str) -> list[float]:
    """A dot a seed with its standard error where it is known, a bar and a number at the mean; returns the scores."""
    scores = [float(score) for run in arm.runs if is_number(score := run.result.get(key))]
    errors = [float(error) for run in arm.runs if is_number(error := run.result.get(f"{key}_se"))]
    if not scores:
        return []
    # Dots of equal height stand side by side.
    places = place + (np.linspace(-0.05, 0.05, len(scores)) if len(scores) > 1 else np.zeros(1))
    if len(errors) == len(scores):
        ax.errorbar(places, scores, errors, fmt="none", ecolor=ink, elinewidth=0.9, alpha=0.6)
    ax.scatter(places, scores, color=ink, marker=shape, s=26, zorder=3, alpha=0.8)
    mean = float(np.mean(scores))
    ax.hlines(mean, place - 0.13, place + 0.13, color=ink, linewidth=2.4, zorder=2)
    top = max(score + error for score, error in zip(scores, errors or [0.0] * len(scores), strict=False))
    ax.annotate(
        f"{mean:.3f}", (place, top), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8.5, color=INK
    )
    return scores
