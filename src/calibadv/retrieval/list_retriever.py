"""The fake retriever: answers from a list, a table or a function, and fails when told to. For tests and examples."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from calibadv.errors import RetrieverError
from calibadv.retrieval.base import Hit
from calibadv.trajectory import Document

Source = Sequence[Document] | Mapping[str, Sequence[Document]] | Callable[[str], Sequence[Document]]


class ListRetriever:
    """Answers each query with the first ``k`` documents of its source.

    The source is a list (the same for every query), a mapping from query to documents (unknown query: no hits) or a
    function of the query (which may raise whatever it likes). Scores are 1, 1/2, 1/3, ... Everything asked is kept in
    ``queries``.

    >>> ada = Document(id="1", title="Ada", text="Ada wrote programs.")
    >>> retriever = ListRetriever({"who programmed": [ada]})
    >>> [[hit.document.title for hit in hits] for hits in retriever.search(["who programmed", "else"], 3)]
    [['Ada'], []]
    """

    def __init__(
        self, source: Source, *, fail_first: int = 0, fail_on: Collection[str] = (), seconds: float = 0.0
    ) -> None:
        self.source = source
        self.fail_first = fail_first
        """How many calls of ``search`` fail before one is answered."""
        self.fail_on = fail_on
        """Queries that always fail; the whole call fails, as with a real server."""
        self.seconds = seconds
        """How long each call takes."""
        self.down = False
        """While true every call fails; tests flip it in the middle of a run."""
        self.calls: list[tuple[str, ...]] = []
        self._lock = threading.Lock()

    @property
    def queries(self) -> list[str]:
        """Every query asked so far, in order, failed calls included."""
        return [query for call in self.calls for query in call]

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`."""
        with self._lock:
            self.calls.append(tuple(queries))
            call = len(self.calls)
        if self.seconds:
            time.sleep(self.seconds)
        if self.down or call <= self.fail_first:
            raise RetrieverError(f"ListRetriever: told to fail (call {call})")
        for query in queries:
            if query in self.fail_on:
                raise RetrieverError(f"ListRetriever: told to fail on the query {query!r}")
        return [[Hit(d, 1.0 / rank) for rank, d in enumerate(self._documents(q)[:k], start=1)] for q in queries]

    def _documents(self, query: str) -> Sequence[Document]:
        if isinstance(self.source, Mapping):
            return self.source.get(query, ())
        if callable(self.source):
            return self.source(query)
        return self.source
