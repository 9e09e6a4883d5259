"""A stopwatch with named laps: where the time of a batch goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up wall seconds by name until they are collected.

    >>> clock = Clock()
    >>> with clock.lap("update"):
    ...     pass
    >>> sorted(clock.collect())
    ['step', 'update']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Count the time spent inside under ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Count seconds measured elsewhere."""
        self._seconds[name] += seconds

    def collect(self) -> dict[str, float]:
        """All sums since the last call, with ``step`` the whole time in between; then start again from 0."""
        now = time.perf_counter()
        seconds = {**self._seconds, "step": now - self._since}
        self._seconds.clear()
        self._since = now
        return seconds
