"""Finding documents: corpus files, BM25, and the fake that tests use.

- `base`: the retriever protocol: queries in, ranked documents out
- `bm25`: BM25: tantivy keeps the postings on disk and searches them; documents stay in the corpus
- `client`: the retriever that asks servers over HTTP
- `config`: which documents are searched and how: the [retrieval] section of a run
- `corpus`: reading, storing and importing documents
- `dense`: dense retrieval: encode the corpus once, search its vectors with FAISS
- `hybrid`: two indexes of one corpus, searched side by side and fused by rank
- `index`: what BM25 and dense indexes share on disk
- `list_retriever`: the fake retriever: answers from a list, a table or a function, and fails when told to. For tests
  and examples
- `open`: opening retrievers: what the [retrieval] section of a run names, or an index folder as what its manifest
  says
- `plugin`: the door for retrievers from outside
- `rerank`: re-ranking: a cross-encoder reads query and document together and sorts what a retriever found
- `server`: the retrieval server: one index behind HTTP, for many rollouts at once
- `web`: web search as a retriever: Serper and SerpAPI, or a provider of yours
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.retrieval.base import Hit, Retriever
    from calibadv.retrieval.bm25 import BM25Config, BM25Retriever, build_bm25
    from calibadv.retrieval.client.retriever import RemoteClientConfig, RemoteRetriever
    from calibadv.retrieval.config import RetrievalConfig
    from calibadv.retrieval.corpus.corpus import Corpus, check_top_k
    from calibadv.retrieval.corpus.importing import ImportConfig, ImportReport, import_corpus
    from calibadv.retrieval.dense.retriever import DenseRetriever
    from calibadv.retrieval.hybrid import HybridConfig, HybridRetriever
    from calibadv.retrieval.list_retriever import ListRetriever
    from calibadv.retrieval.open import open_index, open_retriever
    from calibadv.retrieval.web import OnlineRetriever, WebSearchConfig, open_online

__all__ = [
    "BM25Config",
    "BM25Retriever",
    "Corpus",
    "DenseRetriever",
    "Hit",
    "HybridConfig",
    "HybridRetriever",
    "ImportConfig",
    "ImportReport",
    "ListRetriever",
    "OnlineRetriever",
    "RemoteClientConfig",
    "RemoteRetriever",
    "RetrievalConfig",
    "Retriever",
    "WebSearchConfig",
    "build_bm25",
    "check_top_k",
    "import_corpus",
    "open_index",
    "open_online",
    "open_retriever",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.retrieval.base": ("Hit", "Retriever"),
        "calibadv.retrieval.bm25": ("BM25Config", "BM25Retriever", "build_bm25"),
        "calibadv.retrieval.client.retriever": ("RemoteClientConfig", "RemoteRetriever"),
        "calibadv.retrieval.config": ("RetrievalConfig",),
        "calibadv.retrieval.corpus.corpus": ("Corpus", "check_top_k"),
        "calibadv.retrieval.corpus.importing": ("ImportConfig", "ImportReport", "import_corpus"),
        "calibadv.retrieval.dense.retriever": ("DenseRetriever",),
        "calibadv.retrieval.hybrid": ("HybridConfig", "HybridRetriever"),
        "calibadv.retrieval.list_retriever": ("ListRetriever",),
        "calibadv.retrieval.open": ("open_index", "open_retriever"),
        "calibadv.retrieval.web": ("OnlineRetriever", "WebSearchConfig", "open_online"),
    },
)
