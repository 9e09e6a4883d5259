"""One retrieval server as its client sees it: what it serves, how busy it is, and a circuit-breaker.

A server that fails twice in a row rests for some seconds (longer each time), so that the others are asked without
waiting for its time-outs; when the rest is over one request tries it again. A busy one (503, 429) rests as long as it
asks for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.http import Answer, Transient, shortened

TRIP_AFTER = 2
FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0
TOKEN_VARIABLE = "CALIBADV_RETRIEVER_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server's /health says; published servers have none and are described by the defaults."""

    ours: bool = False
    """It is a calibadv server."""
    version: str = ""
    """Version of its index."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Identity of its index, and of its re-ranker."""
    max_queries: int = 512
    """Queries it takes in one request; published servers search 512 at a time."""
    max_hits: int | None = None
    """Queries times documents it takes in one request."""
    depth: int = 0
    """Documents it retrieves for a query at least, because it re-ranks them."""

    def queries_at_once(self, k: int) -> int:
        """How many queries a request for ``k`` documents may hold."""
        by_hits = self.max_queries if self.max_hits is None else self.max_hits // max(k, self.depth, 1)
        return max(1, min(self.max_queries, by_hits))


class Server:
    """Address and state of one server; the state changes under the lock of its `ServerSet`."""

    def __init__(self, url: str) -> None:
        self.base = base_url(url)
        self.name = self.base
        """How messages call it."""
        self.info: ServerInfo | None = None
        """Not known yet, or to be asked again after a failure."""
        self.in_flight = 0
        self.failures = 0
        self.rests_until = 0.0
        self.answered_at = 0.0

    @property
    def idle_s(self) -> float:
        """Seconds since its last answer."""
        return time.monotonic() - self.answered_at


class ServerSet:
    """Several servers of the same index: hands out the least busy one that works."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.servers = [Server(url) for url in dict.fromkeys(urls)]
        self._lock = threading.Lock()
        self._turn = 0

    def pick(self, tried: Sequence[Server]) -> Server | None:
        """A server that was not tried yet, counted as busy until `done`; None when only resting ones are left.

        When nothing was tried yet there is always one, if need be the server whose rest ends first.
        """
        with self._lock:
            now = time.monotonic()
            left = [server for server in self.servers if server not in tried]
            awake = [s for s in left if s.rests_until <= now and (s.failures < TRIP_AFTER or s.in_flight == 0)]
            if not awake and (tried or not left):
                return None
            self._turn += 1
            if awake:  # of equally busy ones, another each time
                turn = self._turn % len(awake)
                chosen = min(awake[turn:] + awake[:turn], key=lambda server: server.in_flight)
            else:
                chosen = min(left, key=lambda server: server.rests_until)
            chosen.in_flight += 1
            return chosen

    def done(self, server: Server, failure: Transient | None = None) -> None:
        """A request to the server is over; ``failure`` says how it failed, None that it answered."""
        with self._lock:
            server.in_flight -= 1
            if failure is None:
                server.failures, server.rests_until = 0, 0.0
                server.answered_at = time.monotonic()
            elif failure.busy:
                server.rests_until = time.monotonic() + min(failure.retry_after_s or 0.0, LONGEST_REST_S)
            else:
                server.info = None  # it may come back with another index
                server.failures += 1
                rest_s = FIRST_REST_S * 2.0 ** min(server.failures - TRIP_AFTER, 10)
                if server.failures >= TRIP_AFTER:
                    server.rests_until = time.monotonic() + min(rest_s, LONGEST_REST_S)

    @property
    def num_awake(self) -> int:
        """Servers that are not resting."""
        now = time.monotonic()
        return sum(server.rests_until <= now for server in self.servers)


def base_url(url: str) -> str:
    """The address without the path of the search itself, which configs of published systems name.

    >>> base_url("http://127.0.0.1:8000/retrieve"), base_url("https://search.example/wiki/")
    ('http://127.0.0.1:8000', 'https://search.example/wiki')
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(f"retrieval.url must be like http://127.0.0.1:8000, got {url!r}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"retrieval.url must be an address alone, without a user, a password or parameters: {parts.hostname}; "
            f"a secret goes into {TOKEN_VARIABLE}"
        )
    path = parts.path.rstrip("/").removesuffix("/retrieve")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def read_health(answer: Answer, *, server: Server) -> ServerInfo:
    """What a ready server's answer to ``GET /health`` means."""
    if answer.status in (404, 405):
        return ServerInfo()
    refuse_status(answer, where=f"{server.name}/health")
    record = answer.json(where=f"{server.name}/health")
    if not isinstance(record, Mapping) or not isinstance(record.get("version"), str):
        return ServerInfo()  # another kind of server, or ours without the token: a search will tell
    limits, defaults = _mapping(record.get("limits")), _mapping(record.get("defaults"))
    reranker = record.get("reranker")
    return ServerInfo(
        ours=True,
        version=record["version"],
        manifest={"index": record.get("index"), "reranker": reranker},
        max_queries=_positive(limits.get("max_queries")) or ServerInfo().max_queries,
        max_hits=_positive(limits.get("max_hits")),
        depth=0 if reranker is None else _positive(defaults.get("top_k")) or 0,
    )


def read_unready(error: Transient, *, server: Server) -> str:
    """What a server that is not ready says about itself; RetrieverError when it will never be."""
    try:
        record = _mapping(None if error.answer is None else json.loads(error.answer.body))
    except ValueError:
        record = {}
    if record.get("status") == "failed":
        raise RetrieverError(
            f"{server.name} could not load its index: {error.answer and error.answer.message}", is_transient=False
        ) from error
    if "stage" in record:
        return shortened(
            f"{server.name} is {record.get('status')}: {record['stage']}, {record.get('seconds', 0)} s so far"
        )
    return str(error)


def refuse_status(answer: Answer, *, where: str) -> None:
    """RetrieverError for any answer that is not 200, with the server's own words and the remedy where there is one."""
    if answer.status == 200:
        return
    remedy = ""
    if answer.status in (401, 403):
        remedy = f"; set {TOKEN_VARIABLE} to the token that the server was started with"
    elif answer.status == 404:
        remedy = "; check the URL: the server must answer POST /retrieve"
    elif 300 <= answer.status < 400:
        remedy = f"; it points to {answer.headers.get('location', 'nowhere')}: name that address"
    is_transient = None if answer.status >= 500 else False
    raise RetrieverError(f"{where} answered {answer.status}: {answer.message}{remedy}", is_transient=is_transient)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
