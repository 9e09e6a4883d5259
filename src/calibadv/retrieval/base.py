"""The retriever protocol: queries in, ranked documents out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from calibadv.errors import ConfigError
from calibadv.trajectory import Document


class Hit(NamedTuple):
    """A document with the retriever's score (larger is better; comparable within one query only)."""

    document: Document
    score: float


class Retriever(Protocol):
    """Anything that finds documents.

    ``search`` answers every query, in order, with at most ``k`` hits, best first. It raises `RetrieverError` when it
    cannot; it never returns an empty list in place of a failure. It may be called from a background thread.
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]: ...


class IndexedRetriever(Retriever, Protocol):
    """A retriever that can say what it searches."""

    def manifest(self) -> dict[str, Any]: ...

    @property
    def version(self) -> str: ...


def check_search(queries: Sequence[str], k: int) -> None:
    """Refuse arguments of `Retriever.search` that no retriever can answer.

    >>> check_search("one query", 3)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: queries must be a list of strings, got one string; put it into a list
    """
    if isinstance(k, bool) or not isinstance(k, int):
        raise ConfigError(f"k must be a whole number, got {k!r}")
    if k < 1:
        raise ConfigError(f"k must be >= 1, got {k}")
    if isinstance(queries, str):
        raise ConfigError("queries must be a list of strings, got one string; put it into a list")
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise ConfigError(f"queries must be strings; number {number} is of type {type(query).__name__}")
