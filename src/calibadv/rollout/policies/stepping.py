"""A policy over a synchronous engine that lives in this process, such as vLLM's beside the model being trained.

Between two steps of the engine new requests are added and finished turns are handed over, so a finished rollout is
replaced at once and a slow search holds up nobody: `SteppingPolicy` waits for a search only when nothing is being
written. The engine wakes once for all turns of a rollout and sleeps once at its end.

Processes that share one engine (tensor parallelism) must add the same requests in the same order and step together:
before each step they exchange their news, and every one of them adds everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from calibadv.errors import ConfigError, PolicyError, RetrieverUnavailable
from calibadv.rollout.policy import Completion, GenerationRequest, RequestQueue

Key = tuple[int, int]
"""A turn being written: the process that wants it (0 where there is one), and its episode there."""


class SteppingEngine(Protocol):
    """What writes; nothing moves between two calls of `step`."""

    max_context: int
    """Longest context in tokens."""
    max_rows: int
    """Turns written at once."""

    def wake(self) -> None:
        """Be ready to write with the weights as they are now."""

    def sleep(self) -> None:
        """Nothing will be written for a while: give memory back."""

    def add(self, key: Key, request: GenerationRequest) -> None:
        """Begin a turn."""

    def abort(self, keys: Sequence[Key]) -> None:
        """Give turns up."""

    def step(self) -> list[tuple[Key, Completion]]:
        """One token more for every turn; the turns that ended with it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one process tells the others of its group before a step."""

    ended: list[int] = field(default_factory=list)
    """Episodes that ended: their turns are given up."""
    requests: list[GenerationRequest] = field(default_factory=list)
    failure: str | None = None
    """Why it leaves the group in the middle of a rollout."""
    retriever_failed: bool = False


Exchange = Callable[[News], list[News]]
"""Gives everybody's news, in the same order in every process of the group; a collective."""


class SteppingPolicy:
    """Writes turns with a `SteppingEngine`.

    ``rank`` is this process's place in the list that ``exchange`` gives; without it this process has an engine of its
    own. The scheduler takes searches as they finish (``asynchronous``): a run is as fast as its parts, but which rows
    share a step depends on time, so it is not reproducible to the bit.
    """

    asynchronous = True

    def __init__(
        self, engine: SteppingEngine, *, exchange: Exchange | None = None, rank: int = 0, num_processes: int = 1
    ) -> None:
        if exchange is None and (rank, num_processes) != (0, 1):
            raise ConfigError(f"{num_processes} processes share an engine, but there is no exchange between them")
        self.max_context = engine.max_context
        self.max_rows = max(1, engine.max_rows // num_processes)
        """Turns of this process at once."""
        self._engine = engine
        self._exchange = exchange
        self._rank = rank

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        """As `Policy.generate`."""
        running: set[Key] = set()
        self._engine.wake()
        try:
            while self._begin(requests, running):
                for key, completion in self._engine.step() if running else ():
                    running.discard(key)
                    if key[0] == self._rank:
                        yield completion
        except OtherProcessFailed as error:
            self._rest(running)
            raise error.reason from None
        except BaseException as error:
            self._leave(error)
            with suppress(Exception):  # what went wrong first is what matters
                self._rest(running)
            raise
        self._rest(running)

    def _begin(self, requests: RequestQueue, running: set[Key]) -> bool:
        """Give up and begin what the processes say; False when all of them have nothing left."""
        idle = not running
        everyone = self._tell_and_hear(self._news(requests, running, idle=idle))
        for rank, news in enumerate(everyone):
            gone = [(rank, episode) for episode in news.ended if (rank, episode) in running]
            if gone:
                self._engine.abort(gone)
                running.difference_update(gone)
            for request in news.requests:
                self._engine.add((rank, request.episode), request)
                running.add((rank, request.episode))
        return bool(running) or not idle

    def _news(self, requests: RequestQueue, running: set[Key], *, idle: bool) -> News:
        ended = requests.ended()
        mine = sum(rank == self._rank for rank, _ in running)
        mine -= sum((self._rank, episode) in running for episode in ended)
        new = requests.take(self.max_rows - mine, idle=idle)
        for request in new:
            if len(request.token_ids) >= self.max_context:
                raise PolicyError(
                    f"episode {request.episode}: its context has {len(request.token_ids)} tokens, but the engine holds "
                    f"{self.max_context}; raise model.max_context or lower rollout.max_context_tokens"
                )
        return News(ended=ended, requests=new)

    def _tell_and_hear(self, news: News) -> list[News]:
        if self._exchange is None:
            return [news]
        everyone = self._exchange(news)
        for other in everyone:
            if other.failure is not None:
                kind = RetrieverUnavailable if other.retriever_failed else PolicyError
                raise OtherProcessFailed(kind(f"in another process: {other.failure}"))
        return everyone

    def _leave(self, error: BaseException) -> None:
        """Let nobody wait for this process."""
        if self._exchange is not None:
            failed = isinstance(error, RetrieverUnavailable)
            self._exchange(News(failure=str(error) or type(error).__name__, retriever_failed=failed))

    def _rest(self, running: set[Key]) -> None:
        if running:
            self._engine.abort(sorted(running))
        self._engine.sleep()


class OtherProcessFailed(Exception):
    """Another process of the group has left."""

    def __init__(self, reason: PolicyError | RetrieverUnavailable) -> None:
        super().__init__(str(reason))
        self.reason = reason
