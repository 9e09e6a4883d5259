"""Being told how far work of several parts is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

Tell = Callable[[str, int, int], None]
"""Told what is being done ("rollouts", "documents"), how many of them are done, and how many there are."""


def about(progress: Tell | None, what: str) -> Callable[[int, int], None] | None:
    """A function for the progress of one part, of one that is told which part it is."""
    return None if progress is None else partial(progress, what)
