"""``calibadv eval diff``: two evaluations of the same questions, paired."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from calibadv.cli.console.options import command, print_json
from calibadv.cli.console.terminal import clean
from calibadv.cli.eval.options import Format, Json
from calibadv.evaluation import Comparison, read_evaluation
from calibadv.evaluation.compare import Changed, Difference, compare
from calibadv.evaluation.tables import render

EXAMPLES = """\
  calibadv eval diff runs/lab/eval-base runs/lab/eval-test-1
  calibadv eval diff runs/a runs/b --metric em --changed 20
  calibadv eval diff runs/a runs/b --common        when they were asked different questions

The difference is B minus A. Each question counts once: its samples are averaged,
the bootstrap draws questions, and p is two-sided. Questions must be the same in
both; unfinished evaluations can be compared with --common.
"""
METRICS = ("f1", "em", "cem", "judge", "format_valid", "garbled", "searches", "tokens")
NOT_SHARES = frozenset({"searches", "turns", "tokens", "latency_s"})

app = command("diff", examples=EXAMPLES)


@app.default
def diff(
    before: Annotated[Path, Parameter(name="A", help="Folder of an evaluation, or its questions.jsonl.")],
    after: Annotated[Path, Parameter(name="B", help="The other one.")],
    /,
    *,
    metric: Annotated[str, Parameter(help="Decides wins and losses.")] = "f1",
    common: Annotated[
        bool, Parameter(help="Compare only the questions that both were asked.", show_default=False)
    ] = False,
    changed: Annotated[NonNegativeInt, Parameter(help="Show so many of the largest changes each way.")] = 5,
    seed: Annotated[int, Parameter(help="Of the bootstrap.")] = 0,
    format: Format = "text",
    json: Json = False,
) -> None:
    """Compare two evaluations of the same questions."""
    comparison = compare(read_evaluation(before), read_evaluation(after), metric=metric, common=common, seed=seed)
    if json or format == "json":
        print_json(asdict(comparison))
        return
    print(render(table(comparison), format=format, caption=f"{after.name} minus {before.name}"))
    if format != "text":
        return
    print(f"B minus A; 95 % paired bootstrap over questions. A: {before}")
    print(f"B: {after}")
    if comparison.only_before or comparison.only_after:
        print(f"left out: {comparison.only_before} questions only in A, {comparison.only_after} only in B")
    show_changed(comparison, number=changed)


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """A row per data set and metric."""
    header = ["data set", "questions", "metric", "A", "B", "B - A", "p", "wins", "losses", "ties"]
    rows = []
    whole = list(comparison.differences)[-1]
    for name, differences in comparison.differences.items():
        shown = [m for m in METRICS if name == whole or m in ("f1", "em", "cem", comparison.metric)]
        for metric in dict.fromkeys([*shown, comparison.metric]):
            if metric in differences:
                rows.append([name, f"{comparison.num_questions[name]:,}", metric, *cells(metric, differences[metric])])
    return header, rows


def cells(metric: str, difference: Difference) -> list[str]:
    """The figures of a row."""
    digits = 1 if metric in NOT_SHARES else 3
    d = difference
    p = f"{d.p_value:.3f}" if d.p_value > 0.001 else "<=0.001"
    interval = f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"
    return [f"{d.before:.{digits}f}", f"{d.after:.{digits}f}", interval, p, str(d.wins), str(d.losses), str(d.ties)]


def show_changed(comparison: Comparison, *, number: int) -> None:
    """The largest losses and gains."""
    losses = [change for change in comparison.changed if change.after < change.before]
    gains = [change for change in reversed(comparison.changed) if change.after > change.before]
    for title, changes in (("lost", losses), ("won", gains)):
        for change in changes[:number]:
            print(f"\n{title}  {change.dataset}/{change.id}  {describe(change, comparison.metric)}")
        if 0 < number < len(changes):
            print(f"\n... {len(changes) - number} more {title} (--changed N shows more)")


def describe(change: Changed, metric: str) -> str:
    """Question, answers and scores of one change."""
    texts = {
        "question": [change.question],
        "golden": change.golden_answers,
        "A": change.answers_before,
        "B": change.answers_after,
    }
    lines = [f"{metric} {change.before:.2f} -> {change.after:.2f}"]
    for label, parts in texts.items():
        text = clean(" ".join(" | ".join("(none)" if part is None else part for part in parts).split()))
        lines.append(f"  {label:<8}  {textwrap.shorten(text, 160, placeholder='...')}")
    return "\n".join(lines)
