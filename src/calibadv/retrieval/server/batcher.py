"""Merges the work of all connections into batches for the one thread that owns the index and the models.

The event loop submits keys (a query and how it is to be answered) and gets a `Ticket`. A key that is queued or in
flight already is joined, not done again. The worker takes whatever has come in while it was busy; only an idle one
waits, a few milliseconds at most, and only when the last batch shows that there are more clients. Batches are limited
to a fraction of a second of work, and to half of the queries in flight, so that answers go out, and new queries come
in, while the next batch is being searched.
Work that does not benefit from batching (``is_single``) and takes little time is done where it is submitted: handing it
to a thread and back would take longer.
A batch that fails is halved until the failing keys are alone: one bad query, or a batch too large for the GPU, fails no
other query. All methods are for the event loop's thread, unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from calibadv.errors import RetrieverError
from calibadv.retrieval.server.config import ServerConfig

logger = logging.getLogger(__name__)

SMALLEST_BATCH = 16
"""A batch is not cut below this many keys, however slow they are."""
NEW_COST_SHARE = 0.3
"""Weight of the last batch in the running mean of what a key costs."""
MOST_AT_ONCE_S = 0.005
"""Single work that takes longer goes to the worker: other requests wait while it is done in the event loop."""
DELIVERED_AT_ONCE = 32
"""Keys finished in one turn of the event loop; others get their turn in between."""
MOST_FAILURES = 8
"""A batch in which this many keys have failed one by one, and none has worked, is given up as a whole."""
LONGEST_RETRY_S = 30


class Group(NamedTuple):
    """Keys that can be worked on in one call."""

    kind: str
    depth: int
    version: str


class Key(NamedTuple):
    """One piece of work: equal keys have equal results."""

    group: Group
    payload: Hashable


class QueueFull(Exception):
    """No room for the keys; ``retry_after_s`` is when there probably will be."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WorkFailed(Exception):
    """The index or the model failed on a key; the message says how."""


class Closed(Exception):
    """The worker has stopped."""


class Ticket:
    """One request's wait: the future is done when every key is, or one has failed."""

    __slots__ = ("future", "jobs", "missing")

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future
        self.jobs: dict[Key, _Job] = {}
        self.missing = 0

    def fail(self, error: Exception) -> None:
        """End the wait, unless it is over."""
        if not self.future.done():
            self.future.set_exception(error)

    def result(self, key: Key) -> Any:
        """What became of a key that was submitted."""
        return self.jobs[key].result


@dataclass(slots=True, eq=False)
class _Job:
    key: Key
    tickets: set[Ticket] = field(default_factory=set)
    taken: bool = False
    """The worker has it."""
    result: Any = None


class Batcher:
    """One queue, one worker.

    ``work(group, payloads)`` runs in the worker's thread and gives one result a payload. ``finish(key, result)`` runs
    in the event loop and makes of it what the tickets hand out. ``observe(kind, size, seconds)`` follows each batch.
    ``is_single(key)`` is true of work that costs the same in a batch and alone, uses no thread but its own, and may be
    done in the event loop while the worker does other work.
    """

    def __init__(
        self,
        work: Callable[[Group, Sequence[Any]], Sequence[Any]],
        *,
        finish: Callable[[Key, Any], Any],
        config: ServerConfig,
        observe: Callable[[str, int, float], None] = lambda kind, size, seconds: None,
        is_single: Callable[[Key], bool] = lambda key: False,
    ) -> None:
        self._work = work
        self._is_single = is_single
        self._finish = finish
        self._config = config
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[Key, _Job] = {}  # waiting or being worked on
        self._changed = threading.Condition()  # guards everything below
        self._waiting: dict[Group, dict[Key, _Job]] = {}  # both in order of arrival
        self._num_waiting = 0
        self._num_tickets = 0
        self._last_size = 0
        self._costs_s: dict[tuple[str, int], float] = {}  # of a key, by kind and depth
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="calibadv-retriever", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Keys that nobody works on yet."""
        return self._num_waiting

    @property
    def num_unfinished(self) -> int:
        """Keys that wait or are being worked on."""
        return len(self._jobs)

    def submit(self, keys: Sequence[Key]) -> Ticket:
        """Queue what is neither queued nor in flight. QueueFull when there is no room; then nothing is queued."""
        ticket = Ticket(self._loop.create_future())
        new = [_Job(key) for key in dict.fromkeys(keys) if key not in self._jobs]
        with self._changed:
            if self._closed:
                raise Closed
            if self._num_waiting + len(new) > self._config.max_queue:
                raise QueueFull(
                    f"{self._num_waiting:,} queries are waiting and {len(new):,} more do not fit (max_queue "
                    f"{self._config.max_queue:,}); try again later",
                    retry_after_s=self._retry_after_s(),
                )
            here = self._is_short(new)
            for job in new:
                self._jobs[job.key] = job
                if not here:
                    self._waiting.setdefault(job.key.group, {})[job.key] = job
            for key in keys:
                ticket.jobs[key] = self._jobs[key]
            for job in ticket.jobs.values():
                job.tickets.add(ticket)
            ticket.missing = len(ticket.jobs)
            self._num_tickets += 1
            if new and not here:
                self._num_waiting += len(new)
                self._changed.notify()
        if here:
            for part, results in self._work_on(new[0].key.group, new):
                self._deliver(part, results)
        if not ticket.missing and not ticket.future.done():
            ticket.future.set_result(None)
        return ticket

    def drop(self, ticket: Ticket) -> int:
        """Once for every ticket: nobody waits for it any more. Returns how many keys leave the queue with it."""
        ticket.future.cancel()
        dropped = 0
        with self._changed:
            for key, job in ticket.jobs.items():
                job.tickets.discard(ticket)
                if not job.tickets and not job.taken and self._jobs.get(key) is job:
                    queue = self._waiting[key.group]
                    del queue[key], self._jobs[key]
                    if not queue:
                        del self._waiting[key.group]
                    dropped += 1
            self._num_waiting -= dropped
            self._num_tickets -= 1
        return dropped

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Stop after the batch at hand; waiting tickets get `Closed`."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._num_waiting = 0
            self._changed.notify()
        for job in self._jobs.values():
            for ticket in job.tickets:
                ticket.fail(Closed())
        self._jobs.clear()
        self._thread.join(timeout_s)

    def _is_short(self, jobs: Sequence[_Job]) -> bool:
        """Whether these jobs are done sooner here than by the worker."""
        if not jobs:
            return False
        group = jobs[0].key.group
        cost_s = self._costs_s.get((group.kind, group.depth))
        if cost_s is None or cost_s * len(jobs) > MOST_AT_ONCE_S:
            return False
        return all(job.key.group == group and self._is_single(job.key) for job in jobs)

    def _deliver(self, jobs: Sequence[_Job], results: Sequence[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if self._jobs.pop(job.key, None) is None:  # closed in the meantime
                continue
            if not isinstance(result, BaseException):
                try:
                    job.result = self._finish(job.key, result)
                except Exception as error:
                    logger.exception("an answer could not be finished")
                    result = error
            for ticket in job.tickets:
                ticket.missing -= 1
                if isinstance(result, BaseException):
                    ticket.fail(WorkFailed(str(result) or type(result).__name__))
                elif not ticket.missing and not ticket.future.done():
                    ticket.future.set_result(None)
            job.tickets.clear()

    def _retry_after_s(self) -> int:
        cost_s = max(self._costs_s.values(), default=0.0)
        return min(LONGEST_RETRY_S, max(1, math.ceil(self._num_waiting * cost_s / 2)))

    # Wherever the work is done.

    def _work_on(self, group: Group, jobs: list[_Job]) -> Iterator[tuple[list[_Job], Sequence[Any]]]:
        """Parts of the jobs with their results, or with what failed; timed as a whole."""
        seconds, thread_s, parts, failures, has_worked = 0.0, 0.0, [jobs], 0, False
        while parts:
            part, start, thread_start = parts.pop(), time.perf_counter(), time.thread_time()
            results: Sequence[Any]
            try:
                results = self._work(group, [job.key.payload for job in part])
                if len(results) != len(part):
                    raise RetrieverError(f"the index answered {len(results)} of {len(part)} queries")
                has_worked = True
            except BaseException as error:  # a panic of an engine in Rust is no Exception
                if len(part) > 1 and (has_worked or failures < MOST_FAILURES):
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                    continue
                failures += 1
                logger.error("%s failed for %d queries: %s", group.kind, len(part), error, exc_info=failures == 1)
                results = [error] * len(part)
            finally:
                seconds += time.perf_counter() - start
                thread_s += time.thread_time() - thread_start
            yield part, results
        # On the wall clock single work under load looks slow: it counts the wait for the interpreter's lock.
        self._learn_cost(group, (thread_s if self._is_single(jobs[0].key) else seconds) / len(jobs))
        self._observe(group.kind, len(jobs), seconds)

    def _learn_cost(self, group: Group, cost_s: float) -> None:
        with self._changed:
            known = self._costs_s.setdefault((group.kind, group.depth), cost_s)
            self._costs_s[group.kind, group.depth] = known + NEW_COST_SHARE * (cost_s - known)

    # In the worker's thread.

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            for part, results in self._work_on(*batch):
                self._hand_over(part, results)

    def _next_batch(self) -> tuple[Group, list[_Job]] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
                self._gather()
            group = next(iter(self._waiting))
            queue = self._waiting.pop(group)
            jobs = [queue.pop(key) for key in list(islice(queue, self._limit(group)))]
            if queue:
                self._waiting[group] = queue  # behind the other groups: each gets its turn
            for job in jobs:
                job.taken = True
            self._num_waiting -= len(jobs)
            self._last_size = len(jobs)
            return group, jobs

    def _gather(self) -> None:
        """Wait for as many keys as the last batch had, for the length of the window at most."""
        end = time.monotonic() + self._config.batch_window_s
        while 0 < self._num_waiting < self._last_size and not self._closed:
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            self._changed.wait(left_s)

    def _limit(self, group: Group) -> int:
        cost_s = self._costs_s.get((group.kind, group.depth))
        limit = 2 * SMALLEST_BATCH if cost_s is None else int(self._config.batch_target_s / max(cost_s, 1e-9))
        if self._num_tickets > 1:  # half of the keys in flight: the clients of the other half are served meanwhile
            limit = min(limit, math.ceil((self._last_size + self._num_waiting) / 2))
        return min(max(limit, SMALLEST_BATCH), self._config.max_batch)

    def _hand_over(self, jobs: list[_Job], results: Sequence[Any]) -> None:
        try:
            for start in range(0, len(jobs), DELIVERED_AT_ONCE):
                some = slice(start, start + DELIVERED_AT_ONCE)
                self._loop.call_soon_threadsafe(self._deliver, jobs[some], results[some])
        except RuntimeError:  # the loop has ended; nobody waits
            logger.debug("answers came after the end of the server")
