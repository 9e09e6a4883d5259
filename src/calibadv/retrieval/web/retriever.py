"""One client for all search providers: rate limit, retries, the cache, and keys that stay out of sight."""

from __future__ import annotations

import json
import os
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.http import Answer, Transient, check_secret, exchange, hider, require_httpx2
from calibadv.io.provenance import json_sha256
from calibadv.io.retry import Retry
from calibadv.io.thread_pool import Threads
from calibadv.retrieval.base import Hit, check_search
from calibadv.retrieval.web.cache import PageCache
from calibadv.retrieval.web.config import WebSearchConfig
from calibadv.retrieval.web.providers import Found, Provider, find_provider
from calibadv.retrieval.web.rate_limit import RateLimit
from calibadv.trajectory import Document

if TYPE_CHECKING:
    import httpx2

DEFAULT_RETRY = Retry(retries=4, first_wait_s=1.0)


def open_online(
    provider: str | Provider, *, config: WebSearchConfig | None = None, retry: Retry = DEFAULT_RETRY
) -> OnlineRetriever:
    """A provider (a name of `PROVIDERS`, an import path, or the object), with its keys from the environment."""
    return OnlineRetriever(find_provider(provider), config=config, retry=retry)


class OnlineRetriever:
    """Searches the web through one provider. Safe to call from several threads.

    Documents have the address of the page as id, its title, and the provider's snippet as text. Providers give no
    scores: they are 1, 1/2, 1/3, ... by rank. ``retry`` is for each request; in a run there is none, since the
    rollouts retry. What was found in a search of which another part failed is kept until then, so that it is not
    paid for twice.
    """

    def __init__(
        self, provider: Provider, *, config: WebSearchConfig | None = None, retry: Retry = DEFAULT_RETRY
    ) -> None:
        require_httpx2(f"the search provider {provider.name}")
        self.provider = provider
        self.config = config = config or WebSearchConfig()
        secrets = _keys_of(provider)
        taken = sorted({*provider.fields("", 0), *provider.parameter_keys} & config.fields.keys())
        if taken:
            raise ConfigError(
                f"retrieval.web.parameters of {provider.name} must not hold {', '.join(taken)}: the client sets them"
            )
        self._hide = hider(tuple(secrets.values()))
        self._rate_limit = RateLimit(config.per_second or provider.per_second)
        self._retry = retry
        self._paid_for: dict[tuple[str, int], list[Hit]] = {}
        self._closing = threading.Event()
        self._pool = Threads(config.max_connections, name=f"calibadv-{provider.name}")

        def connect() -> None:
            self._cache = None if config.cache is None else PageCache(config.cache, max_age_days=config.cache_days)
            self._client = _new_client(provider, secrets=secrets, config=config)
            self._process = os.getpid()

        self._connect = connect
        connect()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`: equal queries are asked once; a blank query finds nothing."""
        check_search(queries, k)
        if self._closing.is_set():
            raise RetrieverError(f"{self.provider.name}: the retriever is closed; open a new one", is_transient=False)
        if self._process != os.getpid():  # a forked process needs a connection and a cache of its own
            self._connect()
        if k > self.provider.max_results:
            raise ConfigError(f"k must be <= {self.provider.max_results} for {self.provider.name}, got {k}")
        distinct = list(dict.fromkeys(query for query in queries if query.strip()))
        found = dict(zip(distinct, self._pool.map(lambda query: self._search_one(query, k), distinct), strict=True))
        for query in distinct:
            self._paid_for.pop((query, k), None)
        return [list(found.get(query, ())) for query in queries]

    @property
    def version(self) -> str:
        """Stands for provider and parameters; what the provider finds changes all the same."""
        record = [self.provider.name, dict(self.config.fields)]
        return json_sha256(record)

    def manifest(self) -> dict[str, Any]:
        """What is searched, for the record of a run."""
        return {
            "method": "online",
            "provider": self.provider.name,
            "parameters": dict(self.config.fields),
            "version": self.version,
            "note": "a live web search: what it finds changes",
        }

    def close(self) -> None:
        """Close connections and cache; searches in flight end with an error at their next attempt."""
        self._closing.set()
        self._pool.close(wait=True)
        self._client.close()
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search_one(self, query: str, k: int) -> list[Hit]:
        """As many pages as ``k`` needs, fewer when there are no more; each address once."""
        paid_for = self._paid_for.get((query, k))
        if paid_for is not None:
            return paid_for
        by_url: dict[str, Found] = {}
        for page in range(-(-k // self.provider.page_size)):
            before = len(by_url)
            for found in self._page(query, page):
                by_url.setdefault(found.url, found)
            if len(by_url) == before:
                break
        documents = [Document(id=f.url, title=f.title, text=f.snippet) for f in list(by_url.values())[:k]]
        hits = [Hit(document, 1.0 / rank) for rank, document in enumerate(documents, start=1)]
        self._paid_for[query, k] = hits
        return hits

    def _page(self, query: str, page: int) -> list[Found]:
        fields = {**self.provider.fields(query, page), **self.config.fields}
        identity = [self.provider.name, fields]
        digest = json_sha256(identity)
        cached = None if self._cache is None else self._cache.get(digest)
        if cached is not None:
            return cached
        answer = self._ask(fields)
        try:
            found = self.provider.results(answer.json(where=self.provider.name))
        except RetrieverError as error:
            raise RetrieverError(self._hide(f"{self.provider.name}: {error}")) from None
        if self._cache is not None:
            self._cache.put(digest, found)
        return found

    def _ask(self, fields: Mapping[str, Any]) -> Answer:
        """One request, retried while its failure is transient."""
        attempts = self._retry.start(stop=self._closing)
        while True:
            self._rate_limit.wait()
            try:
                return self._send(fields)
            except Transient as error:
                message, after_s = self._hide(str(error)), error.retry_after_s
                if attempts.wait(f"search failed ({message})", retry_after_s=after_s):
                    continue
                if self._closing.is_set():
                    raise RetrieverError(f"{self.provider.name}: closed while searching", is_transient=False) from None
                times = "" if attempts.failed == 1 else f"no answer after {attempts.failed} attempts: "
                raise RetrieverError(f"{times}{message}", is_transient=True, retry_after_s=after_s) from None

    def _send(self, fields: Mapping[str, Any]) -> Answer:
        provider = self.provider
        address = self.config.base_url or provider.address
        if provider.method == "GET":
            request = self._client.build_request("GET", address, params={n: str(v) for n, v in fields.items()})
        else:
            body = json.dumps(fields).encode()
            request = self._client.build_request(
                "POST", address, content=body, headers={"Content-Type": "application/json"}
            )
        try:
            answer = exchange(self._client, request, timeout_s=self.config.timeout_s, where=provider.name)
        except Transient as error:
            if error.answer is not None and any(word in error.answer.message.lower() for word in provider.exhausted):
                raise self._refused(error.answer) from None
            raise
        if answer.status == 500:
            raise Transient(f"{provider.name} answered {answer.status}: {answer.message}", answer=answer)
        if answer.status != 200:
            raise self._refused(answer)
        return answer

    def _refused(self, answer: Answer) -> RetrieverError:
        remedy = ""
        if answer.status in (400, 401, 402, 403, 429, 432, 433):
            remedy = f"; check {', '.join(self.provider.variables)} and the plan behind it"
        message = f"{self.provider.name} answered {answer.status}: {answer.message}{remedy}"
        return RetrieverError(self._hide(message), is_transient=False)


def _keys_of(provider: Provider) -> dict[str, str]:
    """Environment variable -> key; ConfigError when one is missing."""
    keys = {name: os.environ.get(name, "").strip() for name in provider.variables}
    missing = [name for name, key in keys.items() if not key]
    if missing:
        raise ConfigError(f"the search provider {provider.name} needs {' and '.join(missing)} in the environment")
    for name, key in keys.items():
        check_secret(key, variable=name)
    return keys


def _proxy_for(address: str) -> str | None:
    """The proxy that the environment names for this address."""
    parts = urllib.parse.urlsplit(address)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme, proxies.get("all"))


def _new_client(provider: Provider, *, secrets: Mapping[str, str], config: WebSearchConfig) -> httpx2.Client:
    """A client whose requests get their keys below the level at which httpx2 logs them."""
    import httpx2

    from calibadv.version import __version__

    class KeyedTransport(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            headers = request.headers.copy()
            for header, variable in provider.header_keys.items():
                prefix = "Bearer " if header == "Authorization" else ""
                headers[header] = prefix + secrets[variable]
            url = request.url.copy_merge_params(
                {parameter: secrets[variable] for parameter, variable in provider.parameter_keys.items()}
            )
            keyed = httpx2.Request(
                request.method, url, headers=headers, stream=request.stream, extensions=request.extensions
            )
            return super().handle_request(keyed)

    limits = httpx2.Limits(max_connections=config.max_connections, max_keepalive_connections=config.max_connections)
    return httpx2.Client(
        transport=KeyedTransport(limits=limits, proxy=_proxy_for(config.base_url or provider.address)),
        headers={"User-Agent": f"calibadv/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"},
        timeout=httpx2.Timeout(config.timeout_s),
    )
