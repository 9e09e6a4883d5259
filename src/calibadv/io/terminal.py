"""Text for a terminal: labelled blocks, tables, and nothing that could steer it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, Self

from calibadv.io.clock import SYSTEM_CLOCK, Clock

DIM, BOLD, YELLOW, CYAN, GREEN = "2", "1", "33", "36", "32;1"
"""Styles of `Blocks`."""
# Control characters, those that turn the direction of writing, and halves of surrogate pairs, which cannot be printed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LABEL_WIDTH = 12


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


class StatusLine:
    """What is being waited for: one line on a terminal that is written over, elsewhere a log line now and then."""

    def __init__(
        self,
        logger: logging.Logger,
        *,
        stream: IO[str] | None = None,
        every_s: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._logger = logger
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._clock = clock
        self._logged_at: float | None = None

    def show(self, text: str) -> None:
        """Say what is being waited for now."""
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{clean(text)[: shutil.get_terminal_size().columns - 1]}")
            self._stream.flush()
        elif self._logged_at is None or self._clock.now() - self._logged_at >= self._every_s:
            self._logger.info("%s", text)
            self._logged_at = self._clock.now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def clean(text: str) -> str:
    """Without control characters: what a model wrote must not steer the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right.

    >>> print(text_table(["name", "F1"], [["nq", "0.410"]]))
    name     F1
    ----  -----
    nq    0.410
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
