"""Text to words, the same way for documents and queries.

Lower case, runs of two word characters or more (letters, digits, marks and underscores of any script), English stop
words left out (an option), no stemmer. Composed and decomposed accents are the same letters (NFC).
"""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

from calibadv.config_class import config_class
from calibadv.io.packages import require_packages
from calibadv.trajectory import Document

ANALYSIS = 1
"""Version of the rules above; part of an index's identity."""
STOP_WORDS = (
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
)  # fmt: skip
"""Lucene's English stop words."""


@config_class("retrieval.bm25")
class BM25Config:
    """What BM25 reads. It weighs with Lucene's k1 = 1.2 and b = 0.75, which the engine has built in."""

    stop_words: Literal["english", "none"] = "english"
    """Words left out of documents and queries."""


def import_tantivy() -> Any:
    """The engine, or what to install."""
    require_packages("tantivy", extra="retrieval", what="BM25")
    import tantivy

    return tantivy


def make_analyzer(config: BM25Config) -> Any:
    """tantivy's analyzer of these rules; it expects text that went through `normalise`."""
    tantivy = import_tantivy()
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(r"\w\w+")).filter(tantivy.Filter.lowercase())
    if config.stop_words == "english":
        builder = builder.filter(tantivy.Filter.custom_stopword(list(STOP_WORDS)))
    return builder.build()


def text_of(document: Document) -> str:
    """What of a document is searched."""
    return normalise(f"{document.title}\n{document.text}")


def normalise(text: str) -> str:
    """Composed accents, and no lone surrogates, which are in no language and which the engine cannot take.

    >>> normalise("Kaka\N{COMBINING ACUTE ACCENT}") == "Kaká"
    True
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
