"""The search queue: queries of many episodes, batched, searched in background threads.

This is the one place that retries a search: with exponential backoff, all attempts within
``rollout.search_timeout_s``, whatever the retriever. When the attempts are used up, a query that was answered before is
searched for: if that works, the failing queries alone are at fault; if not, the retriever is unavailable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field

from calibadv.errors import RetrieverError, RetrieverUnavailable
from calibadv.io.clock import SYSTEM_CLOCK, Clock
from calibadv.io.retry import Retry
from calibadv.retrieval.base import Hit, Retriever
from calibadv.rollout.config import RolloutConfig

Outcome = list[Hit] | Exception
UNKNOWN_RETRIES = 3
"""Further attempts, at most, after a failure that does not say whether it is transient: it may be the query's."""


@dataclass(slots=True, kw_only=True)
class SearchBatch:
    """Queries that go to the retriever in one call."""

    opened: int
    """Tick of the first query."""
    due: int = 0
    """Tick at which the results are taken, when episodes are played in order."""
    top_k: int = 1
    queries: list[tuple[int, str]] = field(default_factory=list)
    """(episode, query) in order of arrival."""
    future: Future[dict[str, Outcome]] = field(default_factory=Future)

    @property
    def is_done(self) -> bool:
        return self.future.done()


class SearchQueue:
    """Collects queries and searches for them; the retriever is called by ``search_threads`` background threads.

    All methods belong to one thread, or are called under one lock.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        config: RolloutConfig,
        clock: Clock = SYSTEM_CLOCK,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.in_flight: list[SearchBatch] = []
        """Batches on their way, in the order in which they were sent."""
        self.busy_s = 0.0
        """Seconds that background threads spent searching."""
        self.calls = 0
        self.distinct_queries = 0
        self._retriever = retriever
        self._config = config
        self._retry = Retry(retries=config.search_retries, timeout_s=config.search_timeout_s, clock=clock)
        self._on_done = on_done
        self._pool = ThreadPoolExecutor(max_workers=config.search_threads, thread_name_prefix="calibadv-search")
        self._open: SearchBatch | None = None
        self._good_query: str | None = None
        self._lock = threading.Lock()  # for the counts and the calls, which several threads keep
        self._closing = threading.Event()
        self._pending: set[Future[list[list[Hit]]]] = set()

    def add(self, episode: int, query: str, *, top_k: int, tick: int) -> None:
        """Put a query into the open batch."""
        if self._open is None:
            self._open = SearchBatch(opened=tick)
        self._open.queries.append((episode, query))
        self._open.top_k = max(self._open.top_k, top_k)

    def submit(self, *, tick: int, now: bool = False) -> None:
        """Send the open batch when its window is over, or ``now``."""
        if self._open is None or not (now or tick - self._open.opened >= self._config.search_window):
            return
        batch, self._open = self._open, None
        distinct = list(dict.fromkeys(query for _, query in batch.queries))
        self.distinct_queries += len(distinct)
        batch.due = tick + self._config.search_overlap
        batch.future = self._pool.submit(self._search, distinct, batch.top_k)
        batch.future.add_done_callback(lambda _: self._on_done())
        self.in_flight.append(batch)

    def take(self, batch: SearchBatch) -> dict[str, Outcome]:
        """Results of a batch that is done, which thereby leaves the queue; raises what the search raised."""
        self.in_flight.remove(batch)
        return batch.future.result()

    def drop(self, batch: SearchBatch) -> None:
        """Forget a batch that nobody waits for any more."""
        self.in_flight.remove(batch)

    def close(self) -> None:
        """End the waits and the calls under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closing.set()
            pending = list(self._pending)
        for answer in pending:
            with suppress(InvalidStateError):
                answer.set_exception(_closed())

    # In the background threads.

    def _search(self, queries: list[str], top_k: int) -> dict[str, Outcome]:
        start = time.perf_counter()
        try:
            return dict(zip(queries, self._with_retries(queries, top_k), strict=True))
        except RetrieverUnavailable:
            raise
        except RetrieverError as error:
            if self._good_query is not None and not self._answers(self._good_query):
                raise self._unavailable(error) from error
            return self._one_by_one(queries, top_k, error)
        finally:
            with self._lock:
                self.busy_s += time.perf_counter() - start

    def _one_by_one(self, queries: list[str], top_k: int, error: RetrieverError) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for query in queries:
            try:
                outcomes[query] = error if len(queries) == 1 else self._with_retries([query], top_k)[0]
            except RetrieverUnavailable:
                raise
            except RetrieverError as alone:
                outcomes[query] = alone
        all_failed = all(isinstance(outcome, RetrieverError) for outcome in outcomes.values())
        if all_failed and (self._good_query is None or not self._answers(self._good_query)):
            raise self._unavailable(error) from error
        return outcomes

    def _with_retries(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        attempts = self._retry.start(stop=self._closing)
        while True:
            try:
                return self._call(queries, top_k, timeout_s=attempts.attempt_s)
            except RetrieverUnavailable:
                raise
            except RetrieverError as error:
                most = {True: None, None: UNKNOWN_RETRIES, False: 0}[error.is_transient]
                if not attempts.wait(f"search failed ({error})", retry_after_s=error.retry_after_s, most=most):
                    raise

    def _call(self, queries: Sequence[str], top_k: int, *, timeout_s: float | None) -> list[list[Hit]]:
        with self._lock:
            self.calls += 1
        results = self._within(timeout_s, queries, top_k)
        if len(results) != len(queries):
            raise RetrieverError(f"the retriever answered {len(results)} of {len(queries)} queries")
        self._good_query = queries[0]
        return [list(hits[:top_k]) for hits in results]

    def _within(self, timeout_s: float | None, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """One call of the retriever, abandoned after ``timeout_s``; one that hangs keeps only its own thread."""
        answer: Future[list[list[Hit]]] = Future()

        def call() -> None:
            try:
                found, error = self._retriever.search(queries, top_k), None
            except BaseException as raised:  # raised again in the thread that waits
                found, error = [], raised
            with suppress(InvalidStateError):  # the queue was closed meanwhile
                answer.set_result(found) if error is None else answer.set_exception(error)

        with self._lock:
            if self._closing.is_set():  # what was begun before must not begin another call that hangs
                raise _closed()
            self._pending.add(answer)
        threading.Thread(target=call, name="calibadv-search-call", daemon=True).start()
        try:
            return answer.result(timeout=timeout_s)
        except FutureTimeoutError:
            if answer.done():  # the retriever itself raised a time-out
                raise
            raise RetrieverError(
                f"no answer within {timeout_s:.3g} s (rollout.search_timeout_s = {self._config.search_timeout_s} s for "
                "all attempts)",
                is_transient=True,
            ) from None
        finally:
            with self._lock:
                self._pending.discard(answer)

    def _answers(self, query: str) -> bool:
        timeout_s = self._config.search_timeout_s
        try:
            self._call([query], 1, timeout_s=None if timeout_s is None else timeout_s / 2)
        except RetrieverError:
            return False
        return True

    def _unavailable(self, error: RetrieverError) -> RetrieverUnavailable:
        return RetrieverUnavailable(
            f"the retriever was unreachable at every attempt (rollout.search_retries = {self._config.search_retries}, "
            f"rollout.search_timeout_s = {self._config.search_timeout_s}): {error}. Check that it is running and has "
            "its index, then resume"
        )


def _closed() -> RetrieverError:
    return RetrieverError("the rollout was closed while it searched", is_transient=False)
