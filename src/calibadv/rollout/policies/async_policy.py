"""Policies whose turns are written elsewhere: one request a turn, all in flight at once.

An event loop in a background thread carries the requests; `generate` sends new ones and accepts completions as
they come, so a slow search or a long turn holds up nobody else. The scheduler sees ``asynchronous`` and takes searches
as they finish instead of at fixed ticks: such a run is as fast as its parts, but not reproducible to the bit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self, TypeVar

from calibadv.errors import ConfigError, PolicyError
from calibadv.rollout.policy import Completion, GenerationRequest, RequestQueue

T = TypeVar("T")
TICK_S = 0.01
"""How long a tick waits for the next completion before it looks after the searches."""


class AsynchronousPolicy(ABC):
    """Base of `VllmPolicy`, `VllmServerPolicy` and `OpenAIPolicy`; close it, or use it as a context manager."""

    asynchronous = True

    def __init__(self, *, max_rows: int, max_context: int | None) -> None:
        if max_rows < 1:
            raise ConfigError(f"model.max_rows must be >= 1, got {max_rows}")
        self.max_rows = max_rows
        """Requests in flight at once."""
        self.max_context = max_context
        self._loop = LoopThread()

    @abstractmethod
    async def write(self, request: GenerationRequest) -> Completion:
        """One turn. Cancelled when its episode has ended meanwhile."""

    async def shut_down(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the loop holds."""

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        """As `Policy.generate`."""
        done: queue.SimpleQueue[tuple[int, Future[Completion]]] = queue.SimpleQueue()
        running: dict[int, Future[Completion]] = {}
        try:
            while True:
                for episode in requests.ended():
                    if (future := running.pop(episode, None)) is not None:
                        future.cancel()
                new = requests.take(self.max_rows - len(running), idle=not running)
                if not new and not running:
                    return
                for request in new:
                    running[request.episode] = self._begin(request, done)
                for episode, future in _finished(done):
                    if running.get(episode) is future:  # else its episode ended first
                        del running[episode]
                        yield _result(future)
        finally:
            for future in running.values():
                future.cancel()

    def close(self) -> None:
        """End the background thread and what it holds. The policy cannot be used afterwards."""
        if self._loop.is_running:
            try:
                self._loop.run(self.shut_down()).result(timeout=30)
            finally:
                self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _begin(
        self, request: GenerationRequest, done: queue.SimpleQueue[tuple[int, Future[Completion]]]
    ) -> Future[Completion]:
        if self.max_context is not None and len(request.token_ids) >= self.max_context:
            raise PolicyError(
                f"episode {request.episode}: its context has {len(request.token_ids)} tokens, but the engine holds "
                f"{self.max_context}; raise model.max_context or lower rollout.max_context_tokens"
            )
        future = self._loop.run(self.write(request))
        future.add_done_callback(lambda finished: done.put((request.episode, finished)))
        return future


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="calibadv-policy", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what is still going on and end the thread."""
        self.run(_cancel_others()).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _finished(
    done: queue.SimpleQueue[tuple[int, Future[Completion]]],
) -> Iterator[tuple[int, Future[Completion]]]:
    """What has finished, waiting one tick at most for the first."""
    try:
        yield done.get(timeout=TICK_S)
        while True:
            yield done.get_nowait()
    except queue.Empty:
        return


def _result(future: Future[Completion]) -> Completion:
    try:
        return future.result()
    except CancelledError as error:
        raise PolicyError("the policy was closed while turns were being written") from error
