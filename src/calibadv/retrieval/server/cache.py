"""Answers kept as JSON: a document that many queries find is rendered and held once."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from calibadv.errors import RetrieverError
from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus.text import contents

ENTRY_BYTES = 500
"""What an answer costs beside its documents: its key, its place in the table."""
HIT_BYTES = 80
DOCUMENT_BYTES = 300


class RenderedDocument:
    """A document as JSON strings, quotes included."""

    __slots__ = ("contents", "held_by", "id", "key")

    def __init__(self, hit: Hit) -> None:
        self.key = hit.document.id
        self.id = _json_string(hit.document.id)
        self.contents = _json_string(contents(hit.document))
        self.held_by = 0
        """Answers in the cache that have it."""

    @property
    def num_bytes(self) -> int:
        return len(self.id) + len(self.contents) + DOCUMENT_BYTES


class Answer(NamedTuple):
    """What one query found, ready to be written out."""

    documents: tuple[RenderedDocument, ...]
    scores: tuple[bytes, ...]
    order: tuple[int, ...] | None
    """Rows by falling score; None when that is their order already."""

    def rows(self, top_k: int, *, keep_order: bool) -> Sequence[int]:
        """The first ``top_k`` rows, by score or as retrieved."""
        if keep_order or self.order is None:
            return range(min(top_k, len(self.documents)))
        return self.order[:top_k]


class AnswerCache:
    """Keeps the answers used last, within a number of entries and of bytes. For one thread, that of the event loop.

    >>> cache = AnswerCache(max_entries=1, max_bytes=10_000)
    >>> cache.add("first", []), cache.add("second", []), cache.get("first"), len(cache)
    (Answer(documents=(), scores=(), order=None), Answer(documents=(), scores=(), order=None), None, 1)
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._documents: dict[str, RenderedDocument] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Hashable) -> Answer | None:
        """The answer under this key, which counts as used now."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def add(self, key: Hashable, hits: Sequence[Hit], *, order: tuple[int, ...] | None = None) -> Answer:
        """Render an answer and keep it; the ones not used for longest make room."""
        if key in self._answers:
            self._drop(self._answers.pop(key))
        documents = tuple([self._documents.get(hit.document.id) or RenderedDocument(hit) for hit in hits])
        answer = Answer(documents, tuple([_json_number(hit.score) for hit in hits]), order)
        if self.max_entries and self.max_bytes:
            self._keep(key, answer)
            while self._answers and (len(self._answers) > self.max_entries or self.num_bytes > self.max_bytes):
                self._drop(self._answers.popitem(last=False)[1])
        return answer

    def _keep(self, key: Hashable, answer: Answer) -> None:
        self._answers[key] = answer
        self.num_bytes += ENTRY_BYTES + HIT_BYTES * len(answer.documents)
        for document in answer.documents:
            if not document.held_by:
                self._documents[document.key] = document
                self.num_bytes += document.num_bytes
            document.held_by += 1

    def _drop(self, answer: Answer) -> None:
        self.num_bytes -= ENTRY_BYTES + HIT_BYTES * len(answer.documents)
        for document in answer.documents:
            document.held_by -= 1
            if not document.held_by:
                self._documents.pop(document.key, None)  # gone already when one answer named it twice
                self.num_bytes -= document.num_bytes


def _json_string(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")


def _json_number(score: float) -> bytes:
    score = float(score)
    if not math.isfinite(score):
        raise RetrieverError(f"the index gave the score {score}; verify it (calibadv index verify)")
    return repr(score).encode()
