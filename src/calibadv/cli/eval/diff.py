"""``calibadv eval diff``: two evaluations of the same questions, paired."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.eval.run import add_format_options, as_json_text
from calibadv.cli.options import count, new_command

if TYPE_CHECKING:
    from calibadv.evaluation import Comparison
    from calibadv.evaluation.compare import Changed, Difference

EPILOG = """\
examples
  calibadv eval diff runs/lab/eval-base runs/lab/eval-test-1
  calibadv eval diff runs/a runs/b --metric em --changed 20
  calibadv eval diff runs/a runs/b --common             when they were asked different questions

The difference is B minus A. Each question counts once: its samples are averaged, the bootstrap draws questions, and p
is two-sided. Questions must be the same in both; unfinished evaluations can be compared with --common.
"""
METRICS = ("f1", "em", "cem", "judge", "format_valid", "garbled", "searches", "tokens")
NOT_SHARES = frozenset({"searches", "turns", "tokens", "latency_s"})


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "eval diff",
        help="compare two evaluations question by question",
        description="Paired comparison of two evaluations.",
        epilog=EPILOG,
    )
    parser.add_argument("before", type=Path, metavar="A", help="folder of an evaluation, or its questions.jsonl")
    parser.add_argument("after", type=Path, metavar="B")
    parser.add_argument("--metric", default="f1", metavar="NAME", help="decides wins and losses (default: f1)")
    parser.add_argument("--common", action="store_true", help="compare only the questions that both were asked")
    parser.add_argument("--changed", type=count, default=5, metavar="N", help="show N of the largest changes each way")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    add_format_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Compare and show."""
    from calibadv.evaluation import compare, read_evaluation
    from calibadv.evaluation.tables import render

    comparison = compare(
        read_evaluation(arguments.before),
        read_evaluation(arguments.after),
        metric=arguments.metric,
        common=arguments.common,
        seed=arguments.seed,
    )
    if arguments.format == "json":
        print(as_json_text(asdict(comparison)))
        return
    caption = f"{arguments.after.name} minus {arguments.before.name}"
    print(render(table(comparison), format=arguments.format, caption=caption))
    if arguments.format != "text":
        return
    print(f"B minus A, in points for shares; 95 % paired bootstrap over questions. A: {arguments.before}")
    print(f"B: {arguments.after}")
    if comparison.only_before or comparison.only_after:
        print(f"left out: {comparison.only_before} questions only in A, {comparison.only_after} only in B")
    show_changed(comparison, number=arguments.changed)


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
    scale = 1 if metric in NOT_SHARES else 100
    before, after, mean, low, high = (
        scale * value
        for value in (difference.before, difference.after, difference.mean, difference.low, difference.high)
    )
    p = f"{difference.p_value:.3f}" if difference.p_value > 0.001 else "<=0.001"
    counts = [str(number) for number in (difference.wins, difference.losses, difference.ties)]
    return [f"{before:.1f}", f"{after:.1f}", f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]", p, *counts]


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
        lines.append(f"  {label:<8}  {plain(' | '.join('(none)' if part is None else part for part in parts))}")
    return "\n".join(lines)


def plain(text: str, *, width: int = 160) -> str:
    """Untrusted text on one line, without control characters."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return line if len(line) <= width else line[: width - 3] + "..."
