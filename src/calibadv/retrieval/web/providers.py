"""The search engines: what each is sent, how its answer is read, and where its keys come from.

An engine is an entry of the table `ENGINES`. Keys travel in headers or parameters that the client adds when the request
leaves, so they are in no message, no log and no cache.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from calibadv.errors import RetrieverError
from calibadv.io.http import shortened

_TAG = re.compile(r"<[^>]{0,200}>")


class Found(NamedTuple):
    """One result of a page."""

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How one engine is asked."""

    name: str
    address: str
    method: Literal["GET", "POST"]
    """GET: the request's fields are parameters; POST: they are a JSON body."""
    fields: Callable[[str, int], dict[str, Any]]
    """(query, page from 0) -> the fields of the request, without keys."""
    read: Callable[[Mapping[str, Any]], list[Any]]
    """The list of results in an answer; RetrieverError when it is none."""
    names: tuple[str, str, str]
    """What its results call address, title and snippet."""
    header_keys: Mapping[str, str] = field(default_factory=dict)
    """Header -> environment variable; the value of Authorization is sent as a bearer token."""
    parameter_keys: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> environment variable."""
    page_size: int = 10
    max_results: int = 100
    per_second: float = 5.0
    """Requests a second that the usual plan allows; `OnlineConfig.per_second` says otherwise."""
    exhausted: tuple[str, ...] = ()
    """Words of a 429 that will not pass: the plan is used up."""
    markup: bool = False
    """Titles and snippets are HTML."""

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
            if not isinstance(item, Mapping) or not isinstance(item.get(self.names[0]), str):
                continue
            url, title, snippet = (self._text(item.get(name)) for name in self.names)
            if url and (title or snippet):
                found.append(Found(url, title, snippet))
        return found

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            return ""
        text = html.unescape(_TAG.sub("", value)) if self.markup else value
        return " ".join(text.encode("utf-8", "replace").decode().split())


def _results(answer: Mapping[str, Any], *, of: str, mark: str) -> list[Any]:
    """The list ``of``; none when it is missing in an answer that carries ``mark``, as real answers do."""
    results = answer.get(of, [] if mark in answer else None)
    if not isinstance(results, list):
        raise RetrieverError(f"the answer has no list {of!r} (its fields are {shortened(str(sorted(answer)))})")
    return results


def _read_serpapi(answer: Mapping[str, Any]) -> list[Any]:
    if "error" in answer:
        state = answer.get("search_metadata")
        if isinstance(state, Mapping) and state.get("status") == "Success":  # searched, nothing found
            return []
        raise RetrieverError(f"serpapi: {shortened(str(answer['error']))}")
    return _results(answer, of="organic_results", mark="search_metadata")


def _read_brave(answer: Mapping[str, Any]) -> list[Any]:
    web = answer.get("web", {"results": []} if answer.get("type") == "search" else None)
    if not isinstance(web, Mapping):
        raise RetrieverError(f"the answer has no 'web' (its fields are {shortened(str(sorted(answer)))})")
    return _results(web, of="results", mark="type")


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            name="google",
            address="https://www.googleapis.com/customsearch/v1",
            method="GET",
            fields=lambda query, page: {"q": query, "num": 10, "start": 10 * page + 1},
            read=lambda answer: _results(answer, of="items", mark="kind"),
            names=("link", "title", "snippet"),
            parameter_keys={"key": "GOOGLE_API_KEY", "cx": "GOOGLE_CSE_ID"},
            per_second=1.5,
            exhausted=("per day", "daily"),
        ),
        Engine(
            name="serpapi",
            address="https://serpapi.com/search.json",
            method="GET",
            fields=lambda query, page: {"engine": "google", "q": query, "start": 10 * page},
            read=_read_serpapi,
            names=("link", "title", "snippet"),
            parameter_keys={"api_key": "SERPAPI_API_KEY"},
            exhausted=("run out of searches",),
        ),
        Engine(
            name="serper",
            address="https://google.serper.dev/search",
            method="POST",
            fields=lambda query, page: {"q": query, "num": 10, "page": page + 1},
            read=lambda answer: _results(answer, of="organic", mark="searchParameters"),
            names=("link", "title", "snippet"),
            header_keys={"X-API-KEY": "SERPER_API_KEY"},
            per_second=20.0,
        ),
        Engine(
            name="brave",
            address="https://api.search.brave.com/res/v1/web/search",
            method="GET",
            fields=lambda query, page: {"q": query, "count": 20, "offset": page, "text_decorations": "false"},
            read=_read_brave,
            names=("url", "title", "description"),
            header_keys={"X-Subscription-Token": "BRAVE_API_KEY"},
            page_size=20,
            max_results=200,
            per_second=1.0,
            markup=True,
        ),
        Engine(
            name="tavily",
            address="https://api.tavily.com/search",
            method="POST",
            fields=lambda query, page: {"query": query, "max_results": 20, "search_depth": "basic"},
            read=lambda answer: _results(answer, of="results", mark="response_time"),
            names=("url", "title", "content"),
            header_keys={"Authorization": "TAVILY_API_KEY"},
            page_size=20,
            max_results=20,
        ),
    )
}
"""By name. Google's own API takes no new customers and ends on 1 January 2027; Serper and SerpAPI search Google too."""
