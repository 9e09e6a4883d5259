"""The retriever protocol: queries in, ranked documents out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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
