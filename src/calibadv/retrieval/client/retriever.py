"""The retriever of a run whose index lives on a server: HTTP with fail-over and no silent failure.

Works with calibadv's own server and with the published Search-R1 and CalibAdv servers (`wire` has the dialects).
A search that fails raises `RetrieverError`, which says whether the failure is transient; rollouts retry it and find out
whether the retriever is gone (`calibadv.rollout.search_queue`).
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args
from urllib.parse import urlsplit

from calibadv.config_class import PositiveFloat, PositiveInt, config_class
from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.http import Answer, Transient, check_secret, exchange, hider, require_httpx2
from calibadv.io.provenance import text_sha256
from calibadv.io.retry import Retry
from calibadv.io.terminal import StatusLine
from calibadv.io.thread_pool import Threads
from calibadv.retrieval.base import Hit, check_search
from calibadv.retrieval.client.servers import (
    TOKEN_VARIABLE,
    Server,
    ServerInfo,
    ServerSet,
    read_health,
    read_unready,
    refuse_status,
)
from calibadv.retrieval.client.wire import Dialect, read_hits, search_body

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

T = TypeVar("T")
WORTH_A_SERVER = 64
"""Queries that make it worth sending a part of a search to another server."""
TRUSTED_S = 1.0
"""Seconds after its last answer for which a server is taken to be the same; no index loads faster."""
DEFAULT_RETRY = Retry()
_HEALTH_TIMEOUT_S = 10.0
_POLL_S = 1.0


@config_class()
class RemoteClientConfig:
    """What is rarely changed."""

    connect_timeout_s: PositiveFloat = 5.0
    """Seconds to wait for a connection."""
    max_connections: PositiveInt = 16
    """Connections, and requests in flight at once."""
    max_queries: PositiveInt | None = None
    """Queries in a request; not set: what the server says it takes (512 for one that does not say)."""
    candidates: PositiveInt = 20
    """Dialect "calibadv": documents the server retrieves before it re-ranks (the paper's 20)."""


class RemoteRetriever:
    """Searches through one server, or through several that serve the same index. Safe to call from several threads.

    ``timeout_s`` bounds one request, ``retry`` says how often all servers are tried again; in a run they are not, since
    the rollouts retry. Proxy settings of the environment are not used: retrieval servers are neighbours.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        token: str | None = None,
        dialect: Dialect = "search-r1",
        timeout_s: float = 60.0,
        retry: Retry = DEFAULT_RETRY,
        config: RemoteClientConfig | None = None,
    ) -> None:
        require_httpx2("a retriever on a server")
        urls = [urls] if isinstance(urls, str) else list(urls)
        if not urls:
            raise ConfigError("retrieval.url names no server; give an address like http://127.0.0.1:8000")
        if dialect not in get_args(Dialect):
            raise ConfigError(f"the dialect of a remote retriever must be one of {get_args(Dialect)}, got {dialect!r}")
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s of a remote retriever must be > 0, got {timeout_s}")
        self.dialect: Dialect = dialect
        self.timeout_s = timeout_s
        self.retry = retry
        self.config = config or RemoteClientConfig()
        self._version: str | None = None
        token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
        _check_token(token, servers=ServerSet(urls).servers)
        self._hide = hider([token] if token else [])
        self._closing = threading.Event()
        self._pool = Threads(self.config.max_connections, name="calibadv-remote")

        def connect() -> None:
            self._set = ServerSet(urls)
            self._lock = threading.Lock()
            self._slots = threading.Semaphore(self.config.max_connections)
            self._client = _new_client(token, timeout_s=timeout_s, config=self.config)
            self._process = os.getpid()

        self._connect = connect
        connect()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`: equal queries are sent once, long lists in parts."""
        check_search(queries, k)
        self._check_process()
        distinct = list(dict.fromkeys(queries))
        if not distinct:
            return []
        parts = _parts(distinct, at_most=self._queries_at_once(k), servers=self._set.num_awake)
        if len(parts) == 1:
            found = self._search_part(parts[0], k)
        else:
            found = list(itertools.chain(*self._pool.map(lambda part: self._search_part(part, k), parts)))
        by_query = dict(zip(distinct, found, strict=True))
        return [list(by_query[query]) for query in queries]

    def wait_until_ready(self, timeout_s: float = 600.0) -> None:
        """Return when every server answers searches; RetrieverError says which one did not, and what it said last."""
        self._check_process()
        deadline = time.monotonic() + timeout_s
        with StatusLine(logger) as status:
            for server in self._set.servers:
                self._wait_for(server, deadline=deadline, timeout_s=timeout_s, status=status)

    @property
    def version(self) -> str:
        """Version of the index; published servers have none: then it stands for their addresses and dialect."""
        info = self._known_info()
        if info.ours:
            return info.version
        names = "\n".join([self.dialect, *(server.name for server in self._set.servers)])
        return f"unversioned-{text_sha256(names)}"

    def manifest(self) -> dict[str, Any]:
        """What identifies the index, for the record of a run."""
        info = self._known_info()
        record = {
            "method": "remote",
            "urls": [server.name for server in self._set.servers],
            "dialect": self.dialect,
            "version": self.version,
        }
        if info.ours:
            return record | dict(info.manifest)
        return record | {"note": "the server does not say which index it serves"}

    def close(self) -> None:
        """Close the connections; searches in flight end with an error."""
        self._closing.set()
        self._pool.close()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # One request after the other, from any thread.

    def _check_process(self) -> None:
        """A process that was forked off needs connections of its own: two on one would read each other's answers."""
        if self._process != os.getpid():
            self._connect()
        if self._closing.is_set():
            raise RetrieverError("the retriever is closed; open a new one", is_transient=False)

    def _search_part(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        body = search_body(queries, k=k, dialect=self.dialect, candidates=self.config.candidates)

        def ask(server: Server) -> list[list[Hit]]:
            quotes = self._info(server).ours
            where = f"{server.name}/retrieve"
            answer = self._send("POST", where, timeout_s=self.timeout_s, body=body)
            refuse_status(answer, where=where)
            return read_hits(
                answer.json(where=where), queries=queries, k=k, dialect=self.dialect, where=where, quotes=quotes
            )

        return self._ask_any(ask)

    def _ask_any(self, ask: Callable[[Server], T]) -> T:
        """The answer of the first server that gives one; each attempt goes round all servers that are not resting."""
        attempts = self.retry.start(stop=self._closing)
        while True:
            answers, failures = self._round(ask)
            if answers:
                return answers[0]
            asked = [failure.retry_after_s for failure in failures if failure.retry_after_s is not None]
            after_s = min(asked) if len(asked) == len(failures) else None
            if attempts.wait(f"search failed ({failures[-1]})", retry_after_s=after_s):
                continue
            if self._closing.is_set():
                raise RetrieverError("the retriever was closed while it searched", is_transient=False) from failures[-1]
            said = "; ".join(map(str, failures))
            times = "" if attempts.failed == 1 else f"no answer after {attempts.failed} attempts; last: "
            raise RetrieverError(f"{times}{said}", is_transient=True, retry_after_s=after_s) from failures[-1]

    def _round(self, ask: Callable[[Server], T]) -> tuple[list[T], list[Transient]]:
        """Ask one server after the other until one answers: that answer, if any, and the failures before it."""
        tried: list[Server] = []
        failures: list[Transient] = []
        while (server := self._set.pick(tried)) is not None:
            tried.append(server)
            failure: Transient | None = None
            try:
                return [ask(server)], failures
            except Transient as error:
                failure = error
                failures.append(error)
            finally:
                self._set.done(server, failure)
        return [], failures

    def _info(self, server: Server) -> ServerInfo:
        """What the server serves, asked for once and again after it was away; all must serve the same index.

        A server that was idle may have been restarted in the meantime, so it is asked again, too.
        """
        info = server.info
        if info is None or (info.ours and server.idle_s > TRUSTED_S):
            info = read_health(self._send("GET", f"{server.name}/health", timeout_s=_HEALTH_TIMEOUT_S), server=server)
            with self._lock:
                if self._version is None:
                    self._version = info.version
                if info.version != self._version:
                    raise RetrieverError(
                        f"{server.name} serves another index (version {info.version[:12] or 'unknown'}) than the one "
                        f"searched before (version {self._version[:12] or 'unknown'}); all servers of a run must serve "
                        "the same index",
                        is_transient=False,
                    )
            server.info = info
            server.answered_at = time.monotonic()
        return info

    def _known_info(self) -> ServerInfo:
        self._check_process()
        known = next((server.info for server in self._set.servers if server.info is not None), None)
        return known or self._ask_any(self._info)

    def _queries_at_once(self, k: int) -> int:
        if self.config.max_queries is not None:
            return self.config.max_queries
        self._known_info()
        known = (server.info for server in self._set.servers)
        return min((info.queries_at_once(k) for info in known if info is not None), default=ServerInfo().max_queries)

    def _send(self, method: str, url: str, *, timeout_s: float, body: bytes | None = None) -> Answer:
        request = self._client.build_request(
            method, url, content=body, headers={"Content-Type": "application/json"} if body else None
        )
        with self._slots:  # waiting for a connection is not the server's fault and not part of its time
            try:
                return exchange(self._client, request, timeout_s=timeout_s, where=url, hide=self._hide)
            except RuntimeError as error:
                if self._closing.is_set() and not isinstance(error, Transient):
                    raise RetrieverError("the retriever was closed while it searched", is_transient=False) from error
                raise

    # Before a run.

    def _wait_for(self, server: Server, *, deadline: float, timeout_s: float, status: StatusLine) -> None:
        while True:
            try:
                if not self._info(server).ours:  # no /health of ours: only a search tells
                    self._probe(server)
                return
            except Transient as error:
                state = read_unready(error, server=server)
            if time.monotonic() >= deadline:
                raise RetrieverError(
                    f"{server.name} was not ready after {timeout_s:g} s: {state}. Check the address, and that the "
                    "server was started (calibadv retriever serve INDEX)"
                )
            left_s = max(0.0, deadline - time.monotonic())
            status.show(f"waiting for the retriever, {left_s:.0f} s more at most: {state}")
            self._closing.wait(min(_POLL_S, left_s))
            self._check_process()

    def _probe(self, server: Server) -> None:
        where = f"{server.name}/retrieve"
        body = search_body(["ready"], k=1, dialect=self.dialect, candidates=1)
        answer = self._send("POST", where, timeout_s=self.timeout_s, body=body)
        refuse_status(answer, where=where)
        read_hits(answer.json(where=where), queries=["ready"], k=1, dialect=self.dialect, where=where)


def _parts(queries: list[str], *, at_most: int, servers: int) -> list[list[str]]:
    """Parts of nearly equal size, none larger than ``at_most``; several servers share what is worth sharing.

    >>> [len(part) for part in _parts([str(i) for i in range(10)], at_most=4, servers=1)]
    [4, 3, 3]
    """
    number = max(-(-len(queries) // at_most), min(servers, len(queries) // WORTH_A_SERVER), 1)
    size, longer = divmod(len(queries), number)
    bounds = [part * size + min(part, longer) for part in range(number + 1)]
    return [queries[start:stop] for start, stop in itertools.pairwise(bounds)]


def _check_token(token: str | None, *, servers: Sequence[Server]) -> None:
    if token is None:
        return
    check_secret(token, variable=TOKEN_VARIABLE)
    for server in servers:
        parts = urlsplit(server.base)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("the token goes to %s unencrypted; use https unless that network is yours", server.name)


def _new_client(token: str | None, *, timeout_s: float, config: RemoteClientConfig) -> httpx2.Client:
    import httpx2

    from calibadv.version import __version__

    headers = {"User-Agent": f"calibadv/{__version__}", "Accept-Encoding": "gzip"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx2.Client(
        headers=headers,
        timeout=httpx2.Timeout(timeout_s, connect=min(config.connect_timeout_s, timeout_s)),
        limits=httpx2.Limits(max_connections=config.max_connections, max_keepalive_connections=config.max_connections),
        trust_env=False,
    )
