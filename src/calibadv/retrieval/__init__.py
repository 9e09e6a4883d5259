"""Finding documents: corpus files, BM25, and the fake that tests use.

Map: ``base`` has the protocol (`Retriever`, `Hit`), ``corpus`` keeps documents and ``importing`` makes it out of files,
``bm25`` searches by words, ``dense`` by meaning, ``hybrid`` both; ``rerank`` sorts what was found, ``server`` offers
it over HTTP. ``remote`` asks servers, ``online`` web search engines; ``list`` answers from a list and fails on demand.
``opening`` opens an index folder, ``settings`` what a run names. Importing any of it loads no torch.
"""

from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.bm25 import BM25Config, BM25Retriever, build_bm25
from calibadv.retrieval.corpus import Corpus, check_top_k
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.retrieval.hybrid import HybridConfig, HybridRetriever
from calibadv.retrieval.importing import ImportOptions, ImportReport, import_corpus
from calibadv.retrieval.list import ListRetriever
from calibadv.retrieval.online import OnlineConfig, OnlineRetriever, open_online
from calibadv.retrieval.opening import open_index
from calibadv.retrieval.remote import RemoteOptions, RemoteRetriever
from calibadv.retrieval.settings import RetrievalConfig, open_retriever

__all__ = [
    "BM25Config",
    "BM25Retriever",
    "Corpus",
    "DenseRetriever",
    "Hit",
    "HybridConfig",
    "HybridRetriever",
    "ImportOptions",
    "ImportReport",
    "ListRetriever",
    "OnlineConfig",
    "OnlineRetriever",
    "RemoteOptions",
    "RemoteRetriever",
    "RetrievalConfig",
    "Retriever",
    "build_bm25",
    "check_top_k",
    "import_corpus",
    "open_index",
    "open_online",
    "open_retriever",
]
