"""The search desk: queries of many episodes, batched, searched in the background, taken in at a fixed tick.

Which tick a result is taken in depends on ticks alone, never on how long the search took, so that a run is the same to
the bit on a fast and on a slow retriever. Only for a policy that is asynchronous anyway are results taken in as they
come. A failure is retried with growing, jittered waits. If it stays, the desk
asks a query that worked before: when that is answered, the failing queries alone are at fault; when not, the retriever
is unavailable.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field

from calibadv.errors import RetrieverError, RetrieverUnavailable
from calibadv.retrieval.base import Hit, Retriever
from calibadv.rollout.config import RolloutConfig

logger = logging.getLogger(__name__)

Outcome = list[Hit] | RetrieverError
LONGEST_WAIT_S = 30.0


@dataclass(slots=True, kw_only=True)
class Batch:
    """Queries that go to the retriever in one call."""

    opened: int
    """Tick of the first query."""
    due: int = 0
    """Tick at which the results are taken in."""
    queries: list[tuple[int, str]] = field(default_factory=list)
    """(episode, query) in order of arrival."""
    future: Future[dict[str, Outcome]] | None = None


class SearchDesk:
    """Collects queries and hands back results; the retriever is called by ``search_threads`` background threads."""

    def __init__(self, retriever: Retriever, *, config: RolloutConfig, as_they_come: bool = False) -> None:
        self.as_they_come = as_they_come
        """Results are taken in when they are there, whatever the tick and the order."""
        self._retriever = retriever
        self._config = config
        self._pool = ThreadPoolExecutor(max_workers=config.search_threads, thread_name_prefix="calibadv-search")
        self._open: Batch | None = None
        self._flying: list[Batch] = []
        self._good_query: str | None = None
        self._jitter = random.Random()
        self._lock = threading.Lock()  # for the counts, which several threads keep
        self.wait_s = 0.0
        """Seconds the engine stood still for results."""
        self.busy_s = 0.0
        """Seconds the background thread spent searching."""
        self.calls = 0
        self.distinct_queries = 0

    def ask(self, episode: int, query: str, *, tick: int) -> None:
        """Put a query on the desk."""
        if self._open is None:
            self._open = Batch(opened=tick)
        self._open.queries.append((episode, query))

    def submit(self, *, tick: int, now: bool = False) -> None:
        """Send the open batch when its window is over, or ``now``."""
        if self._open is None or not (now or tick - self._open.opened >= self._config.search_window):
            return
        batch, self._open = self._open, None
        distinct = list(dict.fromkeys(query for _, query in batch.queries))
        self.distinct_queries += len(distinct)
        batch.due = tick + self._config.search_overlap
        batch.future = self._pool.submit(self._search, distinct)
        self._flying.append(batch)

    def next_due(self, *, tick: int, idle: bool) -> Batch | None:
        """The oldest batch in flight whose tick has come; when idle, the oldest at all."""
        if self.as_they_come:
            oldest = self._flying[0] if self._flying and idle else None
            return next((batch for batch in self._flying if batch.future is not None and batch.future.done()), oldest)
        if self._flying and (idle or self._flying[0].due <= tick):
            return self._flying[0]
        return None

    def collect(self, batch: Batch, *, timeout_s: float | None) -> dict[str, Outcome] | None:
        """Results of ``batch``, waiting for at most ``timeout_s``; None when they have not come by then."""
        assert batch.future is not None
        start = time.perf_counter()
        try:
            outcomes = batch.future.result(timeout=timeout_s)
        except FutureTimeoutError:
            return None
        finally:
            self.wait_s += time.perf_counter() - start
        self._flying.remove(batch)
        return outcomes

    def drop(self, batch: Batch) -> None:
        """Forget a batch that nobody waits for any more."""
        self._flying.remove(batch)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # In the background thread.

    def _search(self, queries: list[str]) -> dict[str, Outcome]:
        start = time.perf_counter()
        try:
            return dict(zip(queries, self._with_retries(queries), strict=True))
        except RetrieverUnavailable:
            raise
        except RetrieverError as error:
            if self._good_query is not None and not self._answers(self._good_query):
                raise self._unavailable(error) from error
            return self._one_by_one(queries, error)
        finally:
            with self._lock:
                self.busy_s += time.perf_counter() - start

    def _one_by_one(self, queries: list[str], error: RetrieverError) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for query in queries:
            try:
                outcomes[query] = error if len(queries) == 1 else self._with_retries([query])[0]
            except RetrieverUnavailable:
                raise
            except RetrieverError as alone:
                outcomes[query] = alone
        all_failed = all(isinstance(outcome, RetrieverError) for outcome in outcomes.values())
        if all_failed and (self._good_query is None or not self._answers(self._good_query)):
            raise self._unavailable(error) from error
        return outcomes

    def _with_retries(self, queries: list[str]) -> list[list[Hit]]:
        for attempt in range(self._config.search_retries + 1):
            try:
                return self._call(queries)
            except RetrieverUnavailable:
                raise
            except RetrieverError as error:
                if attempt == self._config.search_retries:
                    raise
                wait_s = min(self._config.retry_wait_s * 2**attempt, LONGEST_WAIT_S) * self._jitter.uniform(0.5, 1.0)
                logger.warning("search failed (%s); attempt %d in %.1f s", error, attempt + 2, wait_s)
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _call(self, queries: Sequence[str]) -> list[list[Hit]]:
        with self._lock:
            self.calls += 1
        results = self._within_deadline(queries)
        if len(results) != len(queries):
            raise RetrieverError(f"the retriever answered {len(results)} of {len(queries)} queries")
        self._good_query = queries[0]
        return [list(hits[: self._config.top_k]) for hits in results]

    def _within_deadline(self, queries: Sequence[str]) -> list[list[Hit]]:
        """One call of the retriever, given up after ``search_timeout_s``; one that hangs keeps only its own thread."""
        timeout_s = self._config.search_timeout_s
        if timeout_s is None:
            return self._retriever.search(queries, self._config.top_k)
        answer: Future[list[list[Hit]]] = Future()

        def call() -> None:
            try:
                answer.set_result(self._retriever.search(queries, self._config.top_k))
            except BaseException as error:  # handed over to the thread that waits
                answer.set_exception(error)

        threading.Thread(target=call, name="calibadv-search-call", daemon=True).start()
        try:
            return answer.result(timeout=timeout_s)
        except FutureTimeoutError:
            if answer.done():  # the retriever itself raised a time-out
                raise
            raise RetrieverError(f"no answer within rollout.search_timeout_s = {timeout_s} s") from None

    def _answers(self, query: str) -> bool:
        try:
            self._call([query])
        except RetrieverError:
            return False
        return True

    def _unavailable(self, error: RetrieverError) -> RetrieverUnavailable:
        return RetrieverUnavailable(
            f"the retriever stayed away after {self._config.search_retries + 1} attempts (rollout.search_retries = "
            f"{self._config.search_retries}): {error}. Check that it is running and has its index, then resume"
        )
