"""Tables of figures: as text for a terminal, as Markdown, and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from calibadv.evaluation.statistics import PASS, Estimate, Summary
from calibadv.io.terminal import text_table
from calibadv.rewards.outcome import SCORES

FORMATS = ("text", "markdown", "latex")
COLUMNS = {
    **{name: name.upper() for name in SCORES}, "judge": "judge", "format_valid": "format", "garbled": "garbled",
    "searches": "searches", "turns": "turns", "tokens": "tokens", "latency_s": "s/question",
}  # fmt: skip
_WITH_INTERVAL = frozenset({*SCORES, "judge"})
_SHARES = _WITH_INTERVAL | {"format_valid", "garbled"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def summary_table(summaries: Sequence[Summary], *, seconds: bool = True) -> Table:
    """A row per summary: shares from 0 to 1 with their 95 % interval, counts per rollout; only what is known."""
    known = summaries[0].estimates
    passes = [name for name in known if name.startswith(PASS)]
    columns = {name: title for name, title in COLUMNS.items() if name in known}
    header = ["data set", "questions", *columns.values(), *passes, *(["seconds"] if seconds else [])]
    rows = [
        [
            summary.name,
            f"{summary.num_questions:,}",
            *(_cell(name, summary.estimates[name]) for name in (*columns, *passes)),
            *([f"{summary.seconds:.1f}"] if seconds else []),
        ]
        for summary in summaries
    ]
    return header, rows


def no_format_note(summaries: Sequence[Summary]) -> str | None:
    """What it means when no rollout has a valid format; None when some have."""
    estimates = next((s for s in summaries if s.name == "all"), summaries[0]).estimates
    if estimates["format_valid"].mean > 0:
        return None
    return (
        "No rollout has a valid format (think, search, information, ..., think, answer); "
        f"{estimates['answered'].mean:.0%} hold an answer at all. A model that was never taught these tags earns no "
        "reward and cannot be trained by reinforcement alone: start from one that was fine-tuned on trajectories "
        "(calibadv sft makes one), or change rollout.prompt."
    )


def render(table: Table, *, format: str = "text", caption: str = "") -> str:
    """The table in one of `FORMATS`.

    >>> print(render((["data set", "F1"], [["nq", "0.410 [0.382, 0.439]"]]), format="markdown"))
    | data set | F1 |
    |---|---:|
    | nq | 0.410 [0.382, 0.439] |
    """
    header, rows = table
    if format == "markdown":
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        text[1] = text[1].replace(" ", "")
        return "\n".join(text)
    if format == "latex":
        return _latex(header, rows, caption=caption)
    return text_table(header, rows)


def _latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """A table of the booktabs package."""
    body = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in rows]
    lines = [
        r"\begin{table}",
        r"  \centering",
        *([f"  \\caption{{{_escape(caption)}}}"] if caption else []),
        f"  \\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"    \toprule",
        "    " + " & ".join(_escape(cell) for cell in header) + r" \\",
        r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _cell(name: str, estimate: Estimate) -> str:
    if name in _WITH_INTERVAL:
        return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
    if name in _SHARES or name.startswith(PASS):
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.2f}"
