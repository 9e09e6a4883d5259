"""Does the retriever answer, how fast, and does its index belong to its encoder?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from calibadv.doctor.check import Check, Level
from calibadv.retrieval.base import Retriever
from calibadv.trajectory import Document, Question

QUERIES = 8
OWN_WORDS = 40
"""Words of a document's text that must find the document again."""


def check_retriever(retriever: Retriever, *, questions: Sequence[Question], top_k: int) -> list[Check]:
    """Ask some training questions, then ask for what came back by its own words."""
    queries = [question.text for question in questions[:QUERIES]]
    start = time.perf_counter()
    hits = retriever.search(queries, top_k)
    seconds = (time.perf_counter() - start) / len(queries)
    documents = [hit.document for row in hits for hit in row[:1]]
    least = min(len(row) for row in hits)
    empty = sum(not document.text.strip() for document in documents)
    found = Check(
        name="retriever",
        level=Level.BLOCKER if not documents else Level.WARNING if least < top_k or empty else Level.OK,
        summary=f"answers {len(queries)} questions with at least {least} of {top_k} documents, "
        f"{as_ms(seconds)} a query" + (f"; {empty} documents have no text" if empty else ""),
        remedy="check the corpus: every search should find rollout.top_k documents with text",
        facts={"queries": len(queries), "documents": least, "seconds_per_query": seconds} | identity(retriever),
    )
    return [found, check_index(retriever, documents, top_k=top_k)] if documents else [found]


def as_ms(seconds: float) -> str:
    """Two digits are enough.

    >>> as_ms(0.0003), as_ms(0.0421)
    ('0.3 ms', '42 ms')
    """
    return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"


def check_index(retriever: Retriever, documents: Sequence[Document], *, top_k: int) -> Check:
    """A document must be found by its own words.

    An index that was built with another encoder, another pooling or other prefixes than its queries get still answers,
    with documents that have nothing to do with the query; this is where it shows.
    """
    asked = list({document.id: document for document in documents}.values())
    queries = [f"{document.title} {' '.join(document.text.split()[:OWN_WORDS])}".strip() for document in asked]
    rows = retriever.search(queries, top_k)
    again = sum(any(hit.document.id == document.id for hit in row) for document, row in zip(asked, rows, strict=True))
    share = again / len(asked)
    level = Level.OK if share >= 0.75 else Level.WARNING if share >= 0.25 else Level.BLOCKER
    return Check(
        name="index",
        level=level,
        summary=f"{again} of {len(asked)} documents are found again by their own words",
        remedy="the index does not seem to belong to the encoder (or the corpus) that answers: calibadv index verify, "
        "or build it again with the same model, pooling, prefixes and length",
        facts={"found_again": again, "asked": len(asked)},
    )


def identity(retriever: Any) -> dict[str, Any]:
    """What the retriever says about itself, where it does."""
    facts: dict[str, Any] = {}
    if hasattr(retriever, "manifest"):
        manifest = retriever.manifest()
        facts["manifest"] = {name: value for name, value in manifest.items() if name not in ("stop_words", "versions")}
    if hasattr(retriever, "version"):
        facts["version"] = str(retriever.version)
    return facts
