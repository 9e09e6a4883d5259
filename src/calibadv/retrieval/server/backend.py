"""What the worker's thread owns: the index and the re-ranker, and how a batch is worked on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from calibadv.errors import RetrieverError
from calibadv.io.provenance import text_sha256
from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.rerank import CrossEncoderReranker, RerankedRetriever, Reranker
from calibadv.retrieval.server.batcher import Group, Key
from calibadv.retrieval.server.config import BackendConfig
from calibadv.trajectory import Document

SEARCH, RERANKED, RERANK = "search", "reranked", "rerank"
"""Kinds of work: a plain search; a search with re-ranking; re-ranking of documents that a client sent."""

LONG = 512
"""Characters of a query that may take much longer than others."""

Report = Callable[[str], None]
Load = Callable[[Report], "Backend"]


class Pairs(NamedTuple):
    """A query and the documents that a client wants ranked for it, as (title, text)."""

    query: str
    documents: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Backend:
    """An index, perhaps with a re-ranker."""

    retriever: Retriever
    reranker: Reranker | None = None

    def work(self, group: Group, payloads: Sequence[Any]) -> Sequence[Any]:
        """Results of one batch: hits of each query (as retrieved), or scores of each query's documents."""
        if group.kind == SEARCH:
            return self.retriever.search(payloads, group.depth)
        if self.reranker is None:
            raise RetrieverError("there is no re-ranker")
        if group.kind == RERANKED:
            return RerankedRetriever(self.retriever, self.reranker).scored(payloads, group.depth)
        pairs = [(p.query, Document(id="", title=title, text=text)) for p in payloads for title, text in p.documents]
        scores = iter(self.reranker.score(pairs))
        return [[next(scores) for _ in p.documents] for p in payloads]

    def is_single(self, key: Key) -> bool:
        """Whether a batch would do nothing for this search: BM25 looks for one query after the other."""
        retriever = self.retriever
        is_words = isinstance(retriever, BM25Retriever) and not retriever.shares_queries
        return is_words and key.group.kind == SEARCH and len(str(key.payload)) < LONG

    def manifest(self) -> dict[str, Any]:
        """The index as it describes itself."""
        describe = getattr(self.retriever, "manifest", None)
        return dict(describe()) if describe is not None else {"method": type(self.retriever).__name__}

    @property
    def version(self) -> str:
        """Digest of everything that decides the answers."""
        if self.reranker is not None:
            return RerankedRetriever(self.retriever, self.reranker).version
        version = getattr(self.retriever, "version", None)
        return str(version) if version else text_sha256(repr(self.manifest()))

    @property
    def num_documents(self) -> int | None:
        """Size of the corpus, when the retriever knows it."""
        corpus = getattr(self.retriever, "corpus", None)
        return len(corpus) if corpus is not None else self.manifest().get("num_documents")

    def document(self, document_id: str) -> Document | None:
        """A document by its id."""
        corpus = getattr(self.retriever, "corpus", None)
        if corpus is None:
            return None
        row = corpus.row_of(document_id)
        found: Document | None = None if row is None else corpus[row]
        return found

    def warm_up(self) -> None:
        """One search, so that whatever is loaded late is loaded now, and a broken index is known before a client is."""
        kind = SEARCH if self.reranker is None else RERANKED
        hits: list[Hit] = self.work(Group(kind, 1, self.version), ["warm-up"])[0]
        if self.reranker is not None and not hits:
            self.reranker.score([("warm-up", Document(id="", title="", text="warm-up"))])


def open_backend(config: BackendConfig, report: Report) -> Backend:
    """Open the index, then the re-ranker; takes from a second to many minutes."""
    from calibadv.retrieval.open import open_index

    report("opening the index")
    retriever = open_index(
        config.index,
        corpus=config.corpus,
        encoder=config.encoder,
        device=config.device,
        search_device=config.search_device,
    )
    if config.rerank is None:
        return Backend(retriever)
    report("loading the re-ranker")
    reranker = CrossEncoderReranker(
        config.rerank,
        device=config.device,
        max_length=config.rerank_max_length,
        batch_size=config.rerank_batch_size,
        precision=config.rerank_precision,
    )
    return Backend(retriever, reranker)
