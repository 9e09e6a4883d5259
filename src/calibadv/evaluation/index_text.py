"""Recall of an index and coverage of a corpus as text: tables, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calibadv.evaluation.coverage import Coverage
from calibadv.evaluation.recall import Recall
from calibadv.evaluation.tables import Table
from calibadv.io.terminal import clean

SHOWN = 5
"""So many ids or titles are named."""


def recall_table(rows: Sequence[Recall], *, ks: Sequence[int]) -> Table:
    """A row per data set."""
    with_exact = any(row.num_exact for row in rows)
    header = ["data set", "questions", "answers", *(f"answer@{k}" for k in ks)]
    header += ["supports", *(f"all support@{k}" for k in ks)]
    header += [f"exact@{k}" for k in ks] if with_exact else []
    lines = [
        [clean(row.name), f"{row.num_questions:,}", f"{row.num_answers:,}"]
        + [_share(row.answers.get(k)) for k in ks]
        + [f"{row.num_supports:,}"]
        + [_share(row.supports.get(k)) for k in ks]
        + ([_share(row.exact.get(k)) for k in ks] if with_exact else [])
        for row in rows
    ]
    return header, lines


def audit_table(rows: Sequence[Coverage], *, k: int) -> Table:
    """A row per data set."""
    header = ["data set", "questions", "yes/no", "answers", "in corpus", f"in top {k}"]
    header += ["titles known", "all in corpus", f"all in top {k}", "unanswerable"]
    lines = [
        [
            clean(row.name),
            f"{row.num_questions:,}",
            f"{row.num_yes_no:,}",
            f"{row.num_answers:,}",
            _share(row.answer_in_corpus),
            _share(row.answer_in_top_k),
            f"{row.num_titles:,}",
            _share(row.titles_in_corpus),
            _share(row.support_in_top_k),
            f"{row.num_unanswerable:,}",
        ]
        for row in rows
    ]
    return header, lines


def gaps(rows: Sequence[Coverage]) -> str:
    """The first questions without an answer or an article in the corpus; --json has all."""
    lines = []
    for row in rows:
        if row.unanswerable:
            lines.append(f"{clean(row.name)}: no document holds an answer to {_first(row.unanswerable)}")
        if row.missing_titles:
            lines.append(f"{clean(row.name)}: no article for {_first(_titles(row.missing_titles))}")
    return "\n\n".join(lines)


def _share(value: float | None) -> str:
    """Three decimals, or a dash where nothing was counted."""
    return "-" if value is None else f"{value:.3f}"


def _titles(missing: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(title for titles in missing.values() for title in titles))


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{len(names):,}: {shown}" + (f", and {more:,} more (--json lists all)" if more > 0 else "")
