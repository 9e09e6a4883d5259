"""One self-contained HTML page for a run or a lab: summary, figures as inline SVG, a look at trajectories.

No script, and no link to anything outside the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
from matplotlib import rc_context

from calibadv.report.figures import PLOTS, TEST_F1, Plot, make_figure
from calibadv.report.read_runs import Arm, Floats, is_number, read_arms, read_verdict
from calibadv.report.style import STYLE
from calibadv.report.trajectories import escape, show_run

PAGE = "report.html"
NOT_RECORDED = "-"

# Metric, its name in the summary, decimals.
SUMMARY = (
    ("reward", "reward", 3),
    ("f1", "training F1", 3),
    ("em", "training EM", 3),
    ("format_valid", "share with valid format", 2),
    ("garbled", "garbled share", 2),
    ("entropy", "entropy (nats a token)", 2),
    ("searches", "searches a trajectory", 2),
    ("tokens", "tokens written a trajectory", 0),
    ("mispenalised_share", "mis-penalised share of search turns", 2),
    ("groups_without_silver", "share of groups without silver documents", 2),
    ("correctness_mean", "mean query correctness", 2),
    ("seconds_step", "seconds a batch", 2),
)
TOTALS = (("skipped_updates", "skipped updates (total)"), ("failed_rollouts", "failed rollouts (total)"))


def write_page(run_dir: str | Path, *, out: str | Path | None = None) -> Path:
    """Write ``report.html`` into a run folder or a lab folder (or to ``out``) and return its path."""
    folder = Path(run_dir)
    arms = read_arms(folder)
    is_lab = any(run.result for arm in arms for run in arm.runs)
    num_rows = max((len(run.rows) for arm in arms for run in arm.runs), default=0)
    template = resources.files("calibadv.report").joinpath("template.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        title=escape(folder.resolve().name),
        subtitle=f"{count(len(arms), 'arm')}, {num_rows} batches recorded",
        verdict=f"<p><strong>{escape(words)}</strong></p>" if (words := read_verdict(folder)) else "",
        summary=summary_table(arms),
        summary_note="Left of an arrow the mean of the first tenth of the run, right of the last. Dash: not recorded.",
        figures="\n".join(show_figure(plot, arms) for plot in ((TEST_F1, *PLOTS) if is_lab else PLOTS)),
        trajectories="\n".join(show_arm(arm, alone=len(arms) == 1) for arm in arms),
    )
    path = Path(out) if out is not None else folder / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def count(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> count(1, "arm"), count(2, "arm")
    ('1 arm', '2 arms')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def show_arm(arm: Arm, *, alone: bool) -> str:
    """Trajectories of an arm's first seed."""
    title = "" if alone else f"<h3>{escape(arm.name)}</h3>"
    return title + show_run(arm.runs[0], num_steps=4 if alone else 2)


def summary_table(arms: Sequence[Arm]) -> str:
    head = "".join(f"<th>{escape(arm.name)}</th>" for arm in arms)
    rows = [("test F1, before → after", [score_change(arm) for arm in arms])]
    rows += [("test F1 after, over the seeds", [score_range(arm) for arm in arms])]
    rows += [(name, [first_and_last(arm, key, decimals=decimals) for arm in arms]) for key, name, decimals in SUMMARY]
    rows += [(name, [total(arm, key) for arm in arms]) for key, name in TOTALS]
    body = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
        if any(cell != NOT_RECORDED for cell in cells)
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def scores_of(arm: Arm, key: str) -> list[float]:
    return [float(value) for run in arm.runs if is_number(value := run.result.get(key))]


def score_change(arm: Arm) -> str:
    """Test F1 before and after training, means over the seeds."""
    before, after = (scores_of(arm, key) for key in ("f1_before", "f1_after"))
    return f"{np.mean(before):.3f} → {np.mean(after):.3f}" if before and after else NOT_RECORDED


def score_range(arm: Arm) -> str:
    """Lowest and highest test F1 of the seeds after training."""
    after = scores_of(arm, "f1_after")
    return f"{min(after):.3f} to {max(after):.3f} ({len(after)} seeds)" if len(after) > 1 else NOT_RECORDED


def first_and_last(arm: Arm, key: str, *, decimals: int) -> str:
    """Means over the seeds of the first and the last tenth of a metric."""
    curves: list[Floats] = [values for run in arm.runs if len(values := run.series(key)[1])]
    if not curves:
        return NOT_RECORDED
    tenths = [max(1, len(values) // 10) for values in curves]
    first = np.mean([values[:n].mean() for values, n in zip(curves, tenths, strict=True)])
    last = np.mean([values[-n:].mean() for values, n in zip(curves, tenths, strict=True)])
    return f"{first:.{decimals}f} → {last:.{decimals}f}"


def total(arm: Arm, key: str) -> str:
    values = [run.series(key)[1] for run in arm.runs]
    return f"{sum(v.sum() for v in values):.0f}" if any(len(v) for v in values) else NOT_RECORDED


def show_figure(plot: Plot, arms: Sequence[Arm]) -> str:
    figure = make_figure(plot, arms)
    buffer = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    wide = ' class="wide"' if figure.get_figwidth() > 7 else ""
    svg = inline(buffer.getvalue(), prefix=plot.name, label=plot.title)
    return f"<figure{wide}>{svg}<figcaption>{escape(plot.about)}</figcaption></figure>"


def inline(svg: str, *, prefix: str, label: str) -> str:
    """An SVG file as an element of a page: no prologue, no metadata, ids that cannot meet those of another figure."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub(r"<svg([^>]*)>", rf'<svg\1 role="img" aria-label="{escape(label)}">', svg, count=1)
