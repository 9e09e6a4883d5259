"""A comparison as text: a table, and the questions that changed most."""

from __future__ import annotations

import textwrap

from calibadv.evaluation.compare import Changed, Comparison, Difference
from calibadv.evaluation.tables import Table
from calibadv.io.terminal import clean
from calibadv.rewards.outcome import SCORES

METRICS = (*SCORES, "judge", "format_valid", "garbled", "searches", "tokens")
NOT_SHARES = frozenset({"searches", "turns", "tokens", "latency_s"})


def comparison_table(comparison: Comparison) -> Table:
    """A row per data set and metric."""
    header = ["data set", "questions", "metric", "A", "B", "B - A", "p", "wins", "losses", "ties"]
    rows = []
    whole = list(comparison.differences)[-1]
    for name, differences in comparison.differences.items():
        shown = [m for m in METRICS if name == whole or m in (*SCORES, comparison.metric)]
        for metric in dict.fromkeys([*shown, comparison.metric]):
            if metric in differences:
                rows.append([name, f"{comparison.num_questions[name]:,}", metric, *_cells(metric, differences[metric])])
    return header, rows


def _cells(metric: str, difference: Difference) -> list[str]:
    """The figures of a row."""
    digits = 1 if metric in NOT_SHARES else 3
    d = difference
    p = f"{d.p_value:.3f}" if d.p_value > 0.001 else "<=0.001"
    interval = f"{d.mean:+.{digits}f} [{d.low:+.{digits}f}, {d.high:+.{digits}f}]"
    return [f"{d.before:.{digits}f}", f"{d.after:.{digits}f}", interval, p, str(d.wins), str(d.losses), str(d.ties)]


def changed_questions(comparison: Comparison, *, number: int) -> str:
    """The largest losses and gains, ``number`` of each."""
    losses = [change for change in comparison.changed if change.after < change.before]
    gains = [change for change in reversed(comparison.changed) if change.after > change.before]
    lines = []
    for title, changes in (("lost", losses), ("won", gains)):
        for change in changes[:number]:
            lines.append(f"\n{title}  {change.dataset}/{change.id}  {_described(change, comparison.metric)}")
        if 0 < number < len(changes):
            lines.append(f"\n... {len(changes) - number} more {title} (--changed N shows more)")
    return "\n".join(lines)


def _described(change: Changed, metric: str) -> str:
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
