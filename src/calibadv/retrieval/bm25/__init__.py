"""BM25: tantivy keeps the postings on disk and searches them; documents stay in the corpus.

Map: ``analysis`` turns text into words, ``build`` makes an index (in a folder or in memory), ``retriever`` searches it.
Why this engine: docs/benchmarks.md, section BM25.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.retrieval.bm25.analysis import BM25Config
    from calibadv.retrieval.bm25.build import build_bm25
    from calibadv.retrieval.bm25.retriever import BM25Retriever

__all__ = ["BM25Config", "BM25Retriever", "build_bm25"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.retrieval.bm25.analysis": ("BM25Config",),
        "calibadv.retrieval.bm25.build": ("build_bm25",),
        "calibadv.retrieval.bm25.retriever": ("BM25Retriever",),
    },
)
