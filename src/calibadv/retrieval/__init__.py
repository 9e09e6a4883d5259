"""Finding documents: corpus files, BM25, and the fake that tests use.

Map: ``base`` has the protocol (`Retriever`, `Hit`), ``corpus`` keeps documents and ``importing`` makes it out of files,
``bm25`` searches them on the CPU, ``list`` answers from a list and fails on demand, ``settings`` opens what a run
names. Nothing here imports torch.
"""

from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.bm25 import BM25Config, BM25Retriever
from calibadv.retrieval.corpus import Corpus, check_top_k
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.retrieval.importing import ImportOptions, ImportReport, import_corpus
from calibadv.retrieval.list import ListRetriever
from calibadv.retrieval.settings import RetrievalConfig, open_retriever

__all__ = [
    "BM25Config",
    "BM25Retriever",
    "Corpus",
    "DenseRetriever",
    "Hit",
    "ImportOptions",
    "ImportReport",
    "ListRetriever",
    "RetrievalConfig",
    "Retriever",
    "check_top_k",
    "import_corpus",
    "open_retriever",
]
