"""What a person at a terminal sees: bars with the time left, plain tables, and labelled blocks of text."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

THINK, SEARCH, FOUND, ANSWER, DIM, BOLD = "2", "36", "33", "32;1", "2", "1"
# Control characters, those that turn the direction of writing, and halves of surrogate pairs, which cannot be printed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LABEL_WIDTH = 12


@contextmanager
def progress_bar(what: str, *, is_bytes: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A function to be told (done, total), shown on the terminal's error output; None when that is no terminal.

    It may be called often: the terminal is drawn a few times a second.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import DownloadColumn, MofNCompleteColumn

    with _on_terminal(DownloadColumn() if is_bytes else MofNCompleteColumn()) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """As `progress_bar` for work of several parts: told (what, done, total), it shows a bar for each part."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import TaskID, TaskProgressColumn

    with _on_terminal(TaskProgressColumn()) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def _on_terminal(amount: ProgressColumn) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print("  ".join(cells).rstrip())


class Blocks:
    """Lays out a label with a text wrapped beside it, in colour where somebody looks (NO_COLOR switches it off)."""

    def __init__(self, stream: IO[str], *, width: int, limit: int | None = None) -> None:
        self.colour = stream.isatty() and not os.environ.get("NO_COLOR")
        self.width = min(shutil.get_terminal_size().columns, width)
        self.limit = limit

    def block(self, label: str, text: str, style: str | None = None) -> list[str]:
        """The lines of one block; a text longer than the limit is shortened."""
        text = " ".join(clean(text).split())
        if self.limit is not None and len(text) > self.limit:
            text = text[: self.limit].rsplit(" ", 1)[0] + f" ... (+{len(text) - self.limit} characters, --full)"
        wrapped = textwrap.wrap(text, max(self.width - LABEL_WIDTH, 30)) or [""]
        return [
            (f"  {label:<9} " if not n else " " * LABEL_WIDTH) + (self.paint(line, style) if style else line)
            for n, line in enumerate(wrapped)
        ]

    def paint(self, text: str, style: str) -> str:
        """The text in a colour, or as it is."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour else text


def clean(text: str) -> str:
    """Without control characters: what a model wrote must not steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
