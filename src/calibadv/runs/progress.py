"""Being told how far work is, and bars with the time left on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Tell = Callable[[str, int, int], None]
"""Told what is being done ("rollouts", "documents"), how many of them are done, and how many there are."""


def about(progress: Tell | None, what: str) -> Callable[[int, int], None] | None:
    """A function for the progress of one part, of one that is told which part it is."""
    return None if progress is None else partial(progress, what)


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
