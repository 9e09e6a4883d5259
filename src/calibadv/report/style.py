"""How every figure looks: colours that colour-blind readers can tell apart, plain axes, "not recorded"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The Okabe-Ito palette, without its yellow (too light on white) and with black last.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The last point of each curve carries the arm's marker, so that a grey print can be read too.
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
POSITIVE = "#0072B2"
NEGATIVE = "#D55E00"
GREY = "#767676"
INK = "#222222"

# Any: matplotlib types this by a literal of every setting it knows.
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 150,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    # Names of runs are plain text: a dollar sign in one is no formula.
    "text.parse_math": False,
    # Text stays text in SVG, and the same data give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "calibadv",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}


def colour(index: int) -> str:
    return ARM_COLOURS[index % len(ARM_COLOURS)]


def marker(index: int) -> str:
    return ARM_MARKERS[index % len(ARM_MARKERS)]


def new_figure(title: str, *, width: float, height: float) -> Figure:
    """A figure of its own, in inches; pyplot and its global state are never touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def not_recorded(ax: Axes, keys: Sequence[str]) -> None:
    """Say in place of a plot which metric the run did not write."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not recorded: " + ", ".join(keys), ha="center", va="center", color=GREY, transform=ax.transAxes)


def legend(figure: Figure, *, at_least: int = 2) -> None:
    """One legend below all axes, where no curve can be, when there are at least so many things to tell apart."""
    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if len(entries) >= at_least:
        per_row = max(1, int(figure.get_figwidth() / 1.9))
        figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=per_row, handlelength=1.8)


def save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"{name}.png", out_dir / f"{name}.svg"]
    with rc_context(STYLE):
        figure.savefig(paths[0])
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
