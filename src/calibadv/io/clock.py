"""What time it is, and waiting, as an object: tests pass one that only counts."""

from __future__ import annotations

import threading
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Tells the time and waits. Safe in any thread."""

    def now(self) -> float:
        """Seconds since some fixed moment."""
        ...

    def wait(self, seconds: float, *, stop: threading.Event) -> bool:
        """Wait, at most until ``stop`` is set; True when it is."""
        ...

    async def wait_async(self, seconds: float) -> None:
        """Wait in an event loop."""
        ...


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float, *, stop: threading.Event) -> bool:
        return stop.wait(seconds)

    async def wait_async(self, seconds: float) -> None:
        import asyncio

        await asyncio.sleep(seconds)


class FakeClock:
    """Stands still except while somebody waits, and then jumps. For tests.

    >>> clock = FakeClock()
    >>> clock.wait(2.5, stop=threading.Event()), clock.now(), clock.waits
    (False, 2.5, [2.5])
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.waits: list[float] = []
        """Every wait so far."""

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, *, stop: threading.Event) -> bool:
        self.waits.append(seconds)
        self.time += seconds
        return stop.is_set()

    async def wait_async(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds


SYSTEM_CLOCK = SystemClock()
