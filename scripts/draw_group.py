"""Draw docs/images/group.svg: the turns of one group before and after calibration, as `calibrate` computes them.

Run it from the repository: ``python scripts/draw_group.py`` (or ``--out FILE``). Needs the `report` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from calibadv.advantage import TrajectoryEvidence, TurnEvidence, calibrate, query_correctness
from calibadv.report.style import GREY, NEGATIVE, POSITIVE, STYLE

DEFAULT = Path(__file__).parents[1] / "docs" / "images" / "group.svg"

# "Who directed the film that won ...?" One rollout is right, three are not. Of each search: thinking and documents.
SEARCHES = (
    (("which film won", ("film", "prize", "year")), ("who directed that film", ("director", "studio", "cast"))),
    (("look for the winner", ("film", "prize", "town")), ("now its director", ("director", "award", "critic"))),
    (("ask about the festival", ("festival", "town", "film")),),
    (("guess from the title", ("song", "band", "album")),),
)
NUM_TOKENS_NK = np.array([[26, 24, 20], [24, 26, 44], [30, 38, 0], [34, 40, 0]])
REWARDS_N = (1.0, 0.0, 0.0, 0.0)


def evidence() -> list[TrajectoryEvidence]:
    answer = TurnEvidence("so the answer is", ())
    return [
        TrajectoryEvidence(turns=(*(TurnEvidence(*s) for s in searches), answer), score=reward, format_valid=True)
        for searches, reward in zip(SEARCHES, REWARDS_N, strict=True)
    ]


def draw_turns(ax: Axes, advantages_NK: NDArray[np.float64], *, correctness_NK: NDArray[np.float64] | None) -> None:
    """A row a trajectory, a box a turn as wide as its tokens, coloured by its advantage."""
    strongest = 3.0
    for n, num_tokens_K in enumerate(NUM_TOKENS_NK):
        left = 0.0
        num_turns = int((num_tokens_K > 0).sum())
        for k in range(num_turns):
            width, advantage = float(num_tokens_K[k]), float(advantages_NK[n, k])
            ink = POSITIVE if advantage > 0 else NEGATIVE
            shade = 0.08 + 0.72 * min(1.0, abs(advantage) / strongest)
            ax.add_patch(
                FancyBboxPatch(
                    (left + 1, n - 0.34), width - 2, 0.68, boxstyle="round,pad=0,rounding_size=0.8",
                    mutation_aspect=0.04, facecolor=(ink, shade), edgecolor=ink, linewidth=1,
                )
            )  # fmt: skip
            middle = left + width / 2
            ax.text(middle, n - 0.1, f"{advantage:+.2f}", ha="center", va="center", fontsize=10.5, fontweight="bold")
            kind = "answer" if k == num_turns - 1 else "search"
            if correctness_NK is not None and kind == "search":
                kind = f"search, c = {correctness_NK[n, k]:.2f}"
            ax.text(middle, n + 0.19, kind, ha="center", va="center", fontsize=8.5)
            left += width
    ax.set_xlim(0, NUM_TOKENS_NK.sum(axis=1).max() + 1)
    ax.set_ylim(len(NUM_TOKENS_NK) - 0.5, -0.5)
    ax.set_yticks([])
    ax.tick_params(bottom=False, labelbottom=False)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def draw() -> Figure:
    group_ids = ["question"] * len(REWARDS_N)
    correctness_NK, _ = query_correctness(evidence(), group_ids=group_ids)
    after_NK, stats = calibrate(
        REWARDS_N, group_ids=group_ids, correctness_NK=correctness_NK, num_tokens_NK=NUM_TOKENS_NK
    )
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    before, after = figure.subplots(1, 2)
    draw_turns(before, stats.uncalibrated_NK, correctness_NK=None)
    draw_turns(after, after_NK, correctness_NK=correctness_NK)
    before.set_yticks(range(len(REWARDS_N)), [f"rollout {n + 1}\nreward {r:.0f}" for n, r in enumerate(REWARDS_N)])
    before.tick_params(left=False)
    before.set_title("GRPO: one advantage for all turns of a rollout", fontsize=10.5)
    after.set_title("CalibAdv: good searches forgiven, answers balanced", fontsize=10.5)
    before.set_xlabel("width: tokens that the model wrote", color=GREY)
    after.set_xlabel("c: query correctness; answer turns: equal mass on both sides", color=GREY)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    out: Path = parser.parse_args().out
    # Outlines instead of text: the picture must look the same wherever a README is shown.
    with rc_context({**STYLE, "svg.fonttype": "path"}):
        figure = draw()
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None})
        if out.suffix == ".svg":
            # Matplotlib leaves blanks at the ends of lines.
            out.write_text("\n".join(line.rstrip() for line in out.read_text().splitlines()) + "\n")


if __name__ == "__main__":
    main()
