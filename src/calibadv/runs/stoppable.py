"""`stoppable`: an evaluation that ends early says what it keeps; a second Ctrl-C does not wait for anything."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calibadv.errors import CalibAdvError
from calibadv.evaluation.folder import FINISHED

INTERRUPTED = 130
"""Exit code."""


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Whatever ends the evaluation early, say what is kept and how to continue. A second Ctrl-C ends it at once."""
    before = _second_interrupt_ends(folder)
    try:
        yield
    except (CalibAdvError, OSError):
        _say_what_is_kept(folder)
        raise
    except KeyboardInterrupt:
        before = None  # the handler stays: a second Ctrl-C must not wait for the process to find its end
        _say_what_is_kept(folder)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _say_what_is_kept(folder: Path) -> None:
    """One line about the rollouts on disk, if there are any."""
    try:
        with (folder / FINISHED).open("rb") as file:
            number = sum(1 for _ in file) - 1
    except OSError:
        return
    if number > 0:
        sys.stderr.write(
            f"\n{number} finished rollouts are kept in {folder / FINISHED}; the same command with --out {folder} "
            "continues from there\n"
        )


def _second_interrupt_ends(folder: Path) -> Any:
    """The first Ctrl-C interrupts; the second does not wait for searches in flight. Gives the handler before it."""
    interrupted = False

    def handle(number: int, frame: Any) -> None:
        nonlocal interrupted
        if interrupted:
            os.write(2, f"\ncalibadv: stopped at once; what was finished is in {folder}\n".encode())
            os._exit(INTERRUPTED)
        interrupted = True
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: the caller handles signals
        return None
