"""What an import read, kept and left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args

from calibadv.io.terminal import clean
from calibadv.retrieval.corpus.row_errors import RowError, RowErrorKind

NAMED_PER_KIND = 20
"""So many rows of a kind are named; the rest is only counted."""
KINDS: tuple[RowErrorKind, ...] = get_args(RowErrorKind)


class LeftOut(NamedTuple):
    """A row that is not in the corpus."""

    kind: RowErrorKind
    where: str
    """File and line (the row of a parquet file)."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """The account of an import; also in the folder's corpus.json."""

    num_documents: int
    """Documents (passages, when they were cut) in the corpus."""
    num_rows: int
    """Rows read: lines, rows of parquet files, text files."""
    num_files: int
    config: Mapping[str, Any]
    """The `ImportConfig`."""
    counts: Mapping[str, int]
    """Rows left out, by kind: broken, not_utf8, duplicate, empty."""
    left_out: tuple[LeftOut, ...]
    """The first of each kind."""
    notes: tuple[str, ...]
    """Decisions that the sources did not settle, such as numbering rows without ids."""
    sha256: str

    @property
    def num_left_out(self) -> int:
        """Rows that are not in the corpus."""
        return sum(self.counts.values())

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        record = asdict(self)
        record["left_out"] = [row._asdict() for row in self.left_out]
        record["notes"] = list(self.notes)
        return record


def account(record: Mapping[str, Any]) -> str:
    """What an import left out and decided, from `ImportReport.to_record`, as lines for a terminal."""
    lines = [f"note: {note}" for note in record.get("notes", ())]
    for kind, what in zip(KINDS, ("broken", "not UTF-8", "duplicate id", "empty document"), strict=True):
        count = record.get("counts", {}).get(kind, 0)
        named = [row for row in record.get("left_out", ()) if row["kind"] == kind]
        if count:
            lines.append(f"left out, {what}: {count:,}" + (f", the first {len(named)}:" if count > len(named) else ":"))
            lines += [f"  {row['where']}: {row['message']}" for row in named]
    return "".join(f"{clean(line)}\n" for line in lines)


def encodable(text: str) -> str:
    r"""A text that a file can hold: names of files need not be UTF-8, and JSON can have half a surrogate pair.

    >>> encodable("notes-\udcff.txt")
    'notes-\\udcff.txt'
    """
    return text.encode("utf-8", "backslashreplace").decode()


class Tally:
    """Counts errors as they come and keeps the first of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self.left_out: list[LeftOut] = []

    def add(self, error: RowError, *, where: str) -> None:
        """One more row that is left out."""
        self.counts[error.kind] += 1
        if self.counts[error.kind] <= NAMED_PER_KIND:
            self.left_out.append(LeftOut(error.kind, encodable(where), encodable(error.message)))
