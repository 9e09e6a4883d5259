"""BM25 with parameters of one's choice: the engine's best hits, scored again from their texts.

The engine weighs with k1 = 1.2 and b = 0.75 and rounds document lengths to one byte. Other parameters change the order
of its best hits but rarely which documents are among the first hundred, so those are read again and scored exactly
(Robertson and Zaragoza 2009, with Lucene's idf, which is never negative).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from calibadv.retrieval.bm25.analysis import BM25Config, normalise
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.trajectory import Document

CANDIDATES = 50
"""Hits of the engine that are scored again, at least; five times ``k`` when that is more."""


def text_of(document: Document) -> str:
    """What of a document is searched."""
    return normalise(f"{document.title}\n{document.text}")


def average_words(corpus: Corpus, *, analyzer: Any) -> float:
    """Mean number of words of a document."""
    total = sum(len(analyzer.analyze(text_of(document))) for batch in corpus.iter_batches(1024) for document in batch)
    return total / len(corpus)


def num_candidates(k: int) -> int:
    """How many hits to ask the engine for when ``k`` are wanted."""
    return max(CANDIDATES, 5 * k)


def rescore(
    words: Mapping[str, int],
    rows: Sequence[int],
    *,
    corpus: Corpus,
    analyzer: Any,
    frequencies: Mapping[str, int],
    average: float,
    config: BM25Config,
) -> list[tuple[int, float]]:
    """(row, score) of each row under ``config``, best first, equal scores in row order.

    ``words`` counts the query's words, ``frequencies`` says in how many documents of the corpus each of them occurs.
    """
    num_documents = len(corpus)
    idf = {w: math.log(1 + (num_documents - n + 0.5) / (n + 0.5)) for w, n in frequencies.items()}
    scored = []
    for row, document in zip(rows, corpus.take(rows), strict=True):
        found = analyzer.analyze(text_of(document))
        counts = Counter(word for word in found if word in words)
        slack = config.k1 * (1 - config.b + config.b * len(found) / average)
        score = sum(words[word] * idf[word] * n / (n + slack) for word, n in counts.items())
        scored.append((row, score * (config.k1 + 1)))
    return sorted(scored, key=lambda hit: (-hit[1], hit[0]))
