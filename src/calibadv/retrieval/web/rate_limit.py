"""At most so many requests a second, from all threads together."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Hands out points in time that are ``1 / per_second`` apart."""

    def __init__(self, per_second: float) -> None:
        self._gap_s = 1.0 / per_second
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Sleep until the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap_s
        time.sleep(turn - now)
