"""Which corpus is searched and how: the [retrieval] section of a run, and opening what it names."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from calibadv.retrieval.bm25 import BM25Config, BM25Retriever
from calibadv.retrieval.corpus import Corpus, check_top_k

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig:
    """Where documents come from. How many a search returns is ``rollout.top_k``."""

    corpus: Path
    """Passages, .jsonl or .jsonl.gz: ``{"id", "contents"}`` as in wiki-18, or ``{"id", "title", "text"}``."""
    method: Literal["bm25"] = "bm25"
    """How they are searched."""
    index_dir: Path | None = None
    """Folder that keeps the index, built there at first use. Not set: the index is built in memory each time."""
    bm25: BM25Config = field(default_factory=BM25Config)
    """Parameters of BM25."""


def open_retriever(config: RetrievalConfig, *, top_k: int) -> BM25Retriever:
    """Read the corpus and open or build its index; ``top_k`` is checked against the size of the corpus."""
    corpus = Corpus.read(config.corpus)
    check_top_k(top_k, num_documents=len(corpus))
    if config.index_dir is None:
        logger.info("Building a BM25 index over %d documents of %s in memory", len(corpus), config.corpus)
        return BM25Retriever.from_documents(corpus, config=config.bm25)
    logger.info("Opening the BM25 index %s over %d documents of %s", config.index_dir, len(corpus), config.corpus)
    return BM25Retriever.open_or_build(corpus, index_dir=config.index_dir, config=config.bm25)
