"""Every plot of the paper (and some more) from any run or several: `draw_run`, `draw_lab`.

A metric that no run wrote gives a figure that says so, never a crash: old runs stay readable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from calibadv.report import curves, distributions
from calibadv.report.read_runs import Arm, arms_of, read_lab
from calibadv.report.style import STYLE, new_figure, save

Draw = Callable[[Figure, Sequence[Arm]], None]


class Plot(NamedTuple):
    """One figure of the catalogue."""

    name: str
    """File name without its ending."""
    title: str
    about: str
    """One sentence on what the reader should look for."""
    draw: Draw
    width: float = 6.4
    height: float = 3.5
    """Inches, as the width."""
    more: tuple[float, float] = (0.0, 0.0)
    """Inches added to width and height for every arm."""


SHARE = (0.0, 1.02)

PLOTS: tuple[Plot, ...] = (
    Plot(
        "f1",
        "Training F1",
        "Mean F1 of the sampled answers of each batch, before the format factor.",
        partial(curves.one_curve, key="f1", label="training F1", limits=SHARE),
    ),
    Plot(
        "test_curve",
        "Test F1 during training",
        "Evaluations on the test questions, at temperature 1 unless the run says otherwise.",
        partial(curves.one_curve, key="test_f1", label="test F1", limits=SHARE),
    ),
    Plot(
        "entropy",
        "Entropy of the policy",
        "Estimated by the mean of -log p of the sampled tokens. A rise while F1 falls announces a collapse.",
        partial(curves.one_curve, key="entropy", label="entropy (nats a token)"),
    ),
    Plot(
        "advantage_mass",
        "Advantage mass before and after calibration",
        "Sums of advantages over tokens. Rebalancing brings the two solid lines of the answer turns together.",
        curves.advantage_mass,
        2.2,
        4.6,
        (3.6, 0.0),
    ),
    Plot(
        "mispenalised",
        "Mis-penalised search turns",
        "Search turns of trajectories with a negative advantage that found silver documents: plain GRPO punishes them.",
        partial(
            curves.two_curves,
            keys=("mispenalised_turns", "mispenalised_share"),
            labels=("mis-penalised search turns", "share of all search turns"),
        ),
        8.4,
    ),
    Plot(
        "groups_without_silver",
        "Groups without silver documents",
        "Share of groups with no correct trajectory: without silver documents the soft penalty changes nothing.",
        partial(curves.one_curve, key="groups_without_silver", label="share of groups", limits=SHARE),
    ),
    Plot(
        "silver_counts",
        "Number of silver documents",
        "How many documents the best correct trajectories of a group saw, over the whole run.",
        distributions.silver_counts,
    ),
    Plot(
        "correctness_values",
        "Query correctness",
        "Share of a search turn's documents that are silver and new to the trajectory, over the whole run.",
        distributions.correctness_values,
    ),
    Plot(
        "correctness_mean",
        "Mean query correctness",
        "Mean over the scored search turns of each batch.",
        partial(curves.one_curve, key="correctness_mean", label="mean query correctness"),
    ),
    Plot(
        "perplexity",
        "Perplexity of the policy's own turns",
        "Per kind of turn, logarithmic when it spans a decade. Turns at 50 or above count as garbled.",
        partial(
            curves.two_curves,
            keys=("perplexity_search", "perplexity_answer"),
            labels=("perplexity, search turns", "perplexity, answer turns"),
            log=True,
        ),
        8.4,
    ),
    Plot(
        "garbled",
        "Garbled and well-formed trajectories",
        "Shares of the sampled trajectories.",
        partial(
            curves.two_curves,
            keys=("garbled", "format_valid"),
            labels=("garbled share", "share with valid format"),
            limits=SHARE,
        ),
        8.4,
    ),
    Plot(
        "searches",
        "Searches and length",
        "Searches and tokens written by the policy, means per trajectory.",
        partial(curves.two_curves, keys=("searches", "tokens"), labels=("searches", "tokens written")),
        8.4,
    ),
    Plot(
        "update",
        "Clipping and gradient norm",
        "How far the updates left the policy that sampled the batch.",
        partial(
            curves.two_curves, keys=("clip_fraction", "grad_norm"), labels=("share of tokens clipped", "gradient norm")
        ),
        8.4,
    ),
    Plot(
        "time_split",
        "Where the time went",
        "Mean seconds of a batch: its rollouts, its updates, and evaluations where they fell.",
        distributions.time_split,
        6.4,
        1.7,
        (0, 0.45),
    ),
)

TEST_F1 = Plot(
    "test_f1",
    "Test F1 before and after",
    "A dot a seed with its standard error over the questions, a bar at the mean. Test questions are never trained on.",
    distributions.scores_before_and_after,
)


def make_figure(plot: Plot, arms: Sequence[Arm]) -> Figure:
    """One plot of the catalogue for these arms."""
    width, height = (size + more * len(arms) for size, more in zip((plot.width, plot.height), plot.more, strict=True))
    with rc_context(STYLE):
        figure = new_figure(plot.title, width=width, height=height)
        plot.draw(figure, arms)
    return figure


def draw_arms(arms: Sequence[Arm], out_dir: str | Path, *, plots: Sequence[Plot] = PLOTS) -> list[Path]:
    """Write each plot as PNG and SVG."""
    paths = []
    for plot in plots:
        paths += save(make_figure(plot, arms), Path(out_dir), plot.name)
    return paths


def draw_run(
    run_dirs: str | Path | Sequence[str | Path], out_dir: str | Path, *, names: Sequence[str] | None = None
) -> list[Path]:
    """Draw every plot of one run, or of several against each other, labelled by ``names`` (default: folder names)."""
    return draw_arms(arms_of(run_dirs, names=names), out_dir)


def draw_lab(results_json: str | Path, out_dir: str | Path, *, plots: Sequence[Plot] = PLOTS) -> list[Path]:
    """Draw a lab: test F1 of each arm before and after, and ``plots`` with the seeds of an arm as a band."""
    return draw_arms(read_lab(results_json), out_dir, plots=(TEST_F1, *plots))
