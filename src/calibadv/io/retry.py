"""Retry with exponential backoff and jitter, within one deadline for all attempts.

The one place that waits for servers.

A caller makes its attempts in a loop and asks after each failure whether there is another one::

    attempts = retry.start(stop=closing)
    while True:
        try:
            return send()
        except Transient as error:
            if not attempts.wait(error, retry_after_s=error.retry_after_s):
                raise
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from calibadv.errors import ConfigError
from calibadv.io.clock import SYSTEM_CLOCK, Clock

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, how long and with which waits something is retried."""

    retries: int = 6
    """Further attempts after the first."""
    first_wait_s: float = 0.5
    """Longest wait in seconds before the second attempt; doubles each time."""
    longest_wait_s: float = 30.0
    """Longest wait in seconds between two attempts, also when the server asks for more."""
    timeout_s: float | None = None
    """Seconds for all attempts and the waits between them; None: no limit."""
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False, compare=False)
    draw: Callable[[float, float], float] = field(default=random.uniform, repr=False, compare=False)
    """Draws the jitter from an interval."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"retries must be >= 0, got {self.retries}")
        for name in ("first_wait_s", "longest_wait_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} of a retry must be >= 0, got {getattr(self, name)}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigError(f"timeout_s of a retry must be > 0, got {self.timeout_s}")

    def start(self, *, stop: threading.Event | None = None) -> Attempts:
        """The attempts of one call, which begins now; ``stop`` ends its waits early."""
        return Attempts(self, stop=stop or threading.Event())

    def wait_s(self, attempt: int, *, retry_after_s: float | None = None) -> float:
        """Seconds to wait after failed attempt ``attempt`` (from 0), and not less than the server asked for.

        The wait is drawn between half the ceiling ``first_wait_s * 2 ** attempt`` and the whole.
        """
        ceiling = min(self.first_wait_s * 2.0 ** min(attempt, 60), self.longest_wait_s)
        drawn = self.draw(ceiling / 2, ceiling)
        if retry_after_s is None:
            return drawn
        # Everyone who was sent away hears the same number: the jitter on top keeps them from coming back together.
        return min(retry_after_s, self.longest_wait_s) + min(drawn, self.first_wait_s)


NO_RETRY = Retry(retries=0)
"""One attempt: for callers whose own callers retry."""


class Attempts:
    """The attempts of one call, in one thread or task."""

    def __init__(self, retry: Retry, *, stop: threading.Event) -> None:
        self.failed = 0
        """Attempts that have failed."""
        self._retry = retry
        self._stop = stop
        self._deadline = None if retry.timeout_s is None else retry.clock.now() + retry.timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._retry.clock.now())

    @property
    def attempt_s(self) -> float | None:
        """Seconds that the next attempt may take: all that is left for the last one, else half of it, so that one
        attempt that hangs leaves time for another."""
        left_s = self.left_s
        return left_s if left_s is None or self.failed >= self._retry.retries else left_s / 2

    def wait(self, error: object, *, retry_after_s: float | None = None, most: int | None = None) -> bool:
        """Wait after a failed attempt; True when there is another one.

        False when ``retries`` (or ``most``, where that is less) are used up, when the wait would outlast the deadline,
        and when ``stop`` was set.
        """
        wait_s = self._next_wait_s(error, retry_after_s=retry_after_s, most=most)
        return wait_s is not None and not self._retry.clock.wait(wait_s, stop=self._stop)

    async def wait_async(self, error: object, *, retry_after_s: float | None = None) -> bool:
        """As `wait`, in an event loop."""
        wait_s = self._next_wait_s(error, retry_after_s=retry_after_s, most=None)
        if wait_s is None:
            return False
        await self._retry.clock.wait_async(wait_s)
        return not self._stop.is_set()

    def _next_wait_s(self, error: object, *, retry_after_s: float | None, most: int | None) -> float | None:
        self.failed += 1
        retries = self._retry.retries if most is None else min(most, self._retry.retries)
        if self.failed > retries or self._stop.is_set():
            return None
        wait_s = self._retry.wait_s(self.failed - 1, retry_after_s=retry_after_s)
        left_s = self.left_s
        if left_s is not None and wait_s >= left_s:
            return None
        logger.warning("%s; attempt %d in %.1f s", error, self.failed + 1, wait_s)
        return wait_s
