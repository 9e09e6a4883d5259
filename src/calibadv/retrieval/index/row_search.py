"""What an index finds: rows of its corpus with scores. Documents are fetched when the best rows are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.index.manifest import IndexManifest

RowHits: TypeAlias = list[tuple[int, float]]
"""(row, score) of what one query finds, best first."""


class RowRetriever(ABC):
    """A retriever over an index: it finds rows of its corpus and fetches their documents."""

    def __init__(self, corpus: Corpus, *, index_manifest: IndexManifest) -> None:
        self.corpus = corpus
        self.index_manifest = index_manifest

    @property
    def version(self) -> str:
        """Digest of everything that decides the answers."""
        return self.index_manifest.version

    def manifest(self) -> dict[str, Any]:
        """What identifies this index: recorded with evaluations."""
        return {**asdict(self.index_manifest), "version": self.version}

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits a query, best first."""
        return with_documents(self.search_rows(queries, k), self.corpus)

    @abstractmethod
    def search_rows(self, queries: Sequence[str], k: int) -> list[RowHits]:
        """As `search`, with row numbers of the corpus in the place of documents."""


def with_documents(found: Sequence[RowHits], corpus: Corpus) -> list[list[Hit]]:
    """The hits of every query; the corpus is read once, in the order of its rows."""
    documents = iter(corpus.take([row for hits in found for row, _ in hits]))
    return [[Hit(next(documents), score) for _, score in hits] for hits in found]
