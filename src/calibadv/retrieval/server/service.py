"""Behind the endpoints: loads the index in the background, answers from the cache or through the batcher."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from calibadv.retrieval.base import Hit
from calibadv.retrieval.server.backend import RERANK, RERANKED, SEARCH, Backend, Load, Pairs
from calibadv.retrieval.server.batcher import Batcher, Closed, Group, Key, Ticket
from calibadv.retrieval.server.cache import Answer, AnswerCache
from calibadv.retrieval.server.config import ServerConfig
from calibadv.retrieval.server.metrics import Metrics

logger = logging.getLogger(__name__)

WATCH_AFTER_S = 0.02
"""A request that takes longer than this is dropped when its client goes away; shorter ones are not worth a watcher."""

State = Literal["starting", "loading", "ready", "failed", "stopping"]
Disconnected = Callable[[], Awaitable[Any]]


class NotReady(Exception):
    """The index is not loaded, or not any more; worth another try."""


class DeadlinePassed(Exception):
    """The request was given up after ``request_timeout_s``; worth another try."""


class ClientGone(Exception):
    """The client has closed its connection."""


class RetrievalService:
    """One index and what is around it. ``start`` and everything else runs in the event loop's thread."""

    def __init__(self, load: Load, *, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.state: State = "starting"
        self.error: BaseException | None = None
        """Why the index could not be loaded."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called when the index could not be loaded."""
        self.on_ready: Callable[[], object] = lambda: None
        """Called when searches can be answered."""
        self._load = load
        self._stage = "starting"
        self._started = time.monotonic()
        self._cache = AnswerCache(max_entries=config.cache_entries, max_bytes=config.cache_mb * 2**20)
        self._backend: Backend | None = None
        self._batcher: Batcher | None = None
        self._health: dict[str, Any] = {}
        self._version = ""

    # Life

    def start(self) -> None:
        """Load the index in a thread of its own, so that /health answers meanwhile."""
        self.state, self._started = "loading", time.monotonic()
        loop = asyncio.get_running_loop()

        def tell(function: Callable[..., None], *arguments: Any) -> None:
            try:
                loop.call_soon_threadsafe(function, *arguments)
            except RuntimeError:  # stopped while it was loading
                logger.debug("the server ended before the index was loaded")

        def load() -> None:
            try:
                backend = self._load(self._report)
                self._report("warming up")
                backend.warm_up()
                described = self._describe(backend)
            except BaseException as error:
                tell(self._failed, error)
            else:
                tell(self._loaded, backend, described)

        threading.Thread(target=load, name="calibadv-load", daemon=True).start()

    def stop(self) -> None:
        """End the worker; requests have been answered by now, or have run out of time."""
        self.state = "stopping"
        if self._batcher is not None:
            self._batcher.close()

    def _report(self, stage: str) -> None:
        self._stage = stage
        logger.info("%s", stage)

    def _failed(self, error: BaseException) -> None:
        self.state, self.error = "failed", error
        self.on_failure()

    def _loaded(self, backend: Backend, described: dict[str, Any]) -> None:
        if self.state != "loading":
            return
        self._backend, self._health, self._version = backend, described, described["version"]
        self._batcher = Batcher(
            backend.work,
            finish=self._finish,
            config=self.config,
            observe=self.metrics.observe_batch,
            is_single=backend.is_single,
        )
        self.state = "ready"
        self.on_ready()
        logger.info("ready after %.1f s", time.monotonic() - self._started)

    def _describe(self, backend: Backend) -> dict[str, Any]:
        return {
            "status": "ready",
            "version": backend.version,
            "num_documents": backend.num_documents,
            "index": backend.manifest(),
            "reranker": backend.reranker.manifest() if backend.reranker is not None else None,
            "defaults": {"top_k": self.config.top_k, "rerank_top_k": self.config.rerank_top_k},
            "limits": self.config.limits(),
        }

    # What clients ask

    @property
    def reranks(self) -> bool:
        """Whether there is a re-ranker."""
        return self._ready()[0].reranker is not None

    def health(self, *, with_details: bool) -> dict[str, Any]:
        """State and progress; when ready, what is served."""
        if self.state == "ready":
            return self._health if with_details else {"status": "ready"}
        if self.state == "failed":
            return {"status": "failed", "detail": str(self.error)}
        seconds = round(time.monotonic() - self._started, 1)
        return {"status": self.state, "stage": self._stage, "seconds": seconds}

    def write_metrics(self) -> bytes:
        """The figures of /metrics."""
        metrics, batcher = self.metrics, self._batcher
        metrics.ready.set(self.state == "ready")
        metrics.queue_depth.set(batcher.num_waiting if batcher is not None else 0)
        metrics.unfinished.set(batcher.num_unfinished if batcher is not None else 0)
        metrics.cache_entries.set(len(self._cache))
        metrics.cache_bytes.set(self._cache.num_bytes)
        return metrics.write()

    async def document(self, document_id: str) -> dict[str, str] | None:
        """A document by its id."""
        backend, _ = self._ready()
        document = await asyncio.to_thread(backend.document, document_id)
        if document is None:
            return None
        return {"id": document.id, "title": document.title, "text": document.text}

    async def retrieve(self, queries: Sequence[str], *, depth: int, disconnected: Disconnected) -> list[Answer]:
        """What each query finds among ``depth`` documents, re-ranked when there is a re-ranker."""
        backend, batcher = self._ready()
        group = Group(SEARCH if backend.reranker is None else RERANKED, depth, self._version)
        keys = [Key(group, query) for query in queries]
        answers = {key: self._cache.get(key) for key in keys}
        missing = [key for key in keys if answers[key] is None]
        self.metrics.queries.inc(len(keys))
        self.metrics.cache_hits.inc(len(keys) - len(missing))
        self.metrics.cache_misses.inc(len(missing))
        if missing:
            unfinished = batcher.num_unfinished
            ticket = batcher.submit(missing)
            self.metrics.joined.inc(len(missing) - (batcher.num_unfinished - unfinished))
            await self._wait(batcher, ticket, disconnected=disconnected)
            for key in missing:
                answers[key] = ticket.result(key)
        return [answer for key in keys if (answer := answers[key]) is not None]

    async def rerank(self, payloads: Sequence[Pairs], *, disconnected: Disconnected) -> list[list[float]]:
        """Scores of each query's documents, in their order."""
        _, batcher = self._ready()
        keys = [Key(Group(RERANK, 0, self._version), payload) for payload in payloads]
        self.metrics.queries.inc(len(keys))
        ticket = batcher.submit(keys)
        await self._wait(batcher, ticket, disconnected=disconnected)
        return [ticket.result(key) for key in keys]

    def _ready(self) -> tuple[Backend, Batcher]:
        if self.state != "ready" or self._backend is None or self._batcher is None:
            raise NotReady(f"the server is {self.state} ({self._stage}); try again later")
        return self._backend, self._batcher

    def _finish(self, key: Key, result: Any) -> Any:
        if key.group.kind == RERANK:
            return result
        hits: Sequence[Hit] = result
        order = None
        if key.group.kind == RERANKED:
            order = tuple(sorted(range(len(hits)), key=lambda row: -hits[row].score))
        return self._cache.add(key, hits, order=order)

    async def _wait(self, batcher: Batcher, ticket: Ticket, *, disconnected: Disconnected) -> None:
        loop = asyncio.get_running_loop()
        watchers: list[asyncio.Future[Any]] = []

        def watch() -> None:
            watchers.append(asyncio.ensure_future(disconnected()))
            watchers[0].add_done_callback(lambda watcher: None if watcher.cancelled() else ticket.fail(ClientGone()))

        timers: list[asyncio.TimerHandle] = []
        if not ticket.future.done():
            timers.append(loop.call_later(WATCH_AFTER_S, watch))
            timers.append(loop.call_later(self.config.request_timeout_s, lambda: ticket.fail(self._too_late(batcher))))
        try:
            await ticket.future
        except Closed:
            raise NotReady("the server is stopping; try again later") from None
        finally:
            for timer in timers:
                timer.cancel()
            for watcher in watchers:
                watcher.cancel()
            self.metrics.dropped.inc(batcher.drop(ticket))

    def _too_late(self, batcher: Batcher) -> DeadlinePassed:
        return DeadlinePassed(
            f"no answer within {self.config.request_timeout_s:g} s (request_timeout_s) with "
            f"{batcher.num_waiting:,} queries waiting; try again later"
        )
