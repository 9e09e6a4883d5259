"""The search providers: what each is sent, how its answer is read, and where its keys come from.

Serper and SerpAPI are built in: published search agents are trained and tested on these two. Another one is a
`Provider` of yours, given to `open_online`, or named in a run as ``retrieval.online = "package.module:name"``. Keys
travel in headers or parameters that the client adds when the request leaves, so they are in no message, no log and no
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.http import shortened
from calibadv.registry import is_import_path, resolve


class Found(NamedTuple):
    """One result of a page."""

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one search provider is asked."""

    name: str
    address: str
    method: Literal["GET", "POST"]
    """GET: the request's fields are parameters; POST: they are a JSON body."""
    fields: Callable[[str, int], dict[str, Any]]
    """(query, page from 0) -> the fields of the request, without keys."""
    read: Callable[[Mapping[str, Any]], list[Any]]
    """The list of results in an answer; RetrieverError when it is none. `results_in` reads most of them."""
    names: tuple[str, str, str] = ("link", "title", "snippet")
    """What its results call address, title and snippet."""
    header_keys: Mapping[str, str] = field(default_factory=dict)
    """Header -> environment variable; the value of Authorization is sent as a bearer token."""
    parameter_keys: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> environment variable."""
    page_size: int = 10
    max_results: int = 100
    per_second: float = 5.0
    """Requests a second that the usual plan allows; `WebSearchConfig.per_second` says otherwise."""
    exhausted: tuple[str, ...] = ()
    """Words of a 429 that will not pass: the plan is used up."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables that it needs."""
        return (*self.header_keys.values(), *self.parameter_keys.values())

    def results(self, answer: Any) -> list[Found]:
        """The results of an answer in order; those without an address are left out, missing texts are empty."""
        if not isinstance(answer, Mapping):
            raise RetrieverError(f"{self.name}: expected an object, got {shortened(repr(answer)[:100])}")
        found = []
        for item in self.read(answer):
            if isinstance(item, Mapping) and isinstance(item.get(self.names[0]), str):
                url, title, snippet = (_text(item.get(name)) for name in self.names)
                if url and (title or snippet):
                    found.append(Found(url, title, snippet))
        return found


def results_in(answer: Mapping[str, Any], *, of: str, mark: str) -> list[Any]:
    """The list ``of``; none when it is missing in an answer that carries ``mark``, as real answers do."""
    results = answer.get(of, [] if mark in answer else None)
    if not isinstance(results, list):
        raise RetrieverError(f"the answer has no list {of!r} (its fields are {shortened(str(sorted(answer)))})")
    return results


def _text(value: Any) -> str:
    return " ".join(value.encode("utf-8", "replace").decode().split()) if isinstance(value, str) else ""


def _read_serpapi(answer: Mapping[str, Any]) -> list[Any]:
    if "error" in answer:
        state = answer.get("search_metadata")
        if isinstance(state, Mapping) and state.get("status") == "Success":  # searched, nothing found
            return []
        raise RetrieverError(f"serpapi: {shortened(str(answer['error']))}")
    return results_in(answer, of="organic_results", mark="search_metadata")


PROVIDERS: dict[str, Provider] = {
    "serper": Provider(
        name="serper",
        address="https://google.serper.dev/search",
        method="POST",
        fields=lambda query, page: {"q": query, "num": 10, "page": page + 1},
        read=lambda answer: results_in(answer, of="organic", mark="searchParameters"),
        header_keys={"X-API-KEY": "SERPER_API_KEY"},
        per_second=20.0,
    ),
    "serpapi": Provider(
        name="serpapi",
        address="https://serpapi.com/search.json",
        method="GET",
        fields=lambda query, page: {"engine": "google", "q": query, "start": 10 * page},
        read=_read_serpapi,
        parameter_keys={"api_key": "SERPAPI_API_KEY"},
        exhausted=("run out of searches",),
    ),
}
"""By name. Both search Google, whose own API takes no new customers and ends on 1 January 2027."""


def check_provider_name(named: str) -> None:
    """Refuse a name that is neither built in nor an import path."""
    if not is_import_path(named):
        find_provider(named)


def find_provider(named: str | Provider) -> Provider:
    """The provider of a name or of an import path, or the one given."""
    found = resolve(named, built_in=PROVIDERS, setting="retrieval.online")
    if not isinstance(found, Provider):
        raise ConfigError(
            f"retrieval.online {named!r} is a {type(found).__name__}, not a calibadv.retrieval.web.Provider"
        )
    return found
