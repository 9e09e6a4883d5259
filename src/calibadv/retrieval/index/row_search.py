"""What an index finds: rows of its corpus with scores. Documents are fetched when the best rows are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus.corpus import Corpus

RowHits: TypeAlias = list[tuple[int, float]]
"""(row, score) of what one query finds, best first."""


@runtime_checkable
class RowSearcher(Protocol):
    """An index that finds rows without fetching their documents."""

    def search_rows(self, queries: Sequence[str], k: int) -> list[RowHits]: ...


def with_documents(found: Sequence[RowHits], corpus: Corpus) -> list[list[Hit]]:
    """The hits of every query; the corpus is read once, in the order of its rows."""
    documents = iter(corpus.take([row for hits in found for row, _ in hits]))
    return [[Hit(next(documents), score) for _, score in hits] for hits in found]
