"""A pool of threads that survives a fork.

Threads do not live on in a forked process (a worker of a data loader, say), but a pool there believes that they do:
what it is given would wait for ever. This one starts again in every process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")


class Threads:
    """At most so many threads, started when they are needed."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most = most
        self._name = name
        self._start()

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call in a thread; RuntimeError after `close`."""
        if self._process != os.getpid():
            self._start()
        return self._pool.submit(call, *args, **kwargs)

    def map(self, call: Callable[[A], T], arguments: Iterable[A]) -> list[T]:
        """The results of all calls, in order; the first failure drops those that have not begun."""
        futures = [self.submit(call, argument) for argument in arguments]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def close(self, *, wait: bool = False) -> None:
        """Take nothing more; what has not begun is dropped."""
        if self._process == os.getpid():
            self._pool.shutdown(wait=wait, cancel_futures=True)

    def _start(self) -> None:
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix=self._name)
        self._process = os.getpid()
