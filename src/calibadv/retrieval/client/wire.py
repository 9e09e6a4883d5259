r"""What a retrieval client sends and reads, in the two dialects that published servers speak.

``search-r1`` (the default) asks ``{"queries", "topk", "return_scores"}`` and reads documents as ``{"id", "contents"}``,
so ids travel. ``calibadv`` asks ``{"queries", "topk_retrieval", "topk_rerank", "return_scores", "not_sort"}`` and reads
documents as strings ``"Title"\ntext`` without an id: the id becomes the SHA-256 of that string, equal for equal
passages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from calibadv.errors import RetrieverError
from calibadv.io.http import shortened
from calibadv.io.provenance import text_sha256
from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus.text import encodable, split_contents
from calibadv.trajectory import Document

Dialect = Literal["search-r1", "calibadv"]


def search_body(queries: Sequence[str], *, k: int, dialect: Dialect, candidates: int) -> bytes:
    """The body of ``POST /retrieve``; ``candidates`` is what CalibAdv's server retrieves before it re-ranks."""
    record: dict[str, Any] = {"queries": list(queries)}
    if dialect == "search-r1":
        record |= {"topk": k, "return_scores": True}
    else:
        record |= {
            "topk_retrieval": max(k, candidates),
            "topk_rerank": k,
            "return_scores": True,
            "not_sort": False,
        }
    return json.dumps(record).encode()


def read_hits(
    answer: Any, *, queries: Sequence[str], k: int, dialect: Dialect, where: str, quotes: bool = False
) -> list[list[Hit]]:
    """The hits of every query in order; RetrieverError for anything but one list of documents with scores per query.

    ``quotes``: the server is known to quote titles, so a first line without quotes is the text of an untitled document.
    """
    result = answer.get("result") if isinstance(answer, Mapping) else None
    if not isinstance(result, list):
        raise RetrieverError(f'{where}: the answer has no list "result", so this is no /retrieve server; check the URL')
    if len(result) != len(queries):
        raise RetrieverError(f"{where}: {len(result)} lists of documents for {len(queries)} queries")
    read: Callable[[Any], Document] = _without_id
    if dialect == "search-r1":
        read = _with_id_and_quotes if quotes else _with_id
    try:
        return [[_hit(item, read=read) for item in _list(items)[:k]] for items in result]
    except _Malformed as error:
        raise RetrieverError(f"{where}: {error}") from None


class _Malformed(Exception):
    """Which part of an answer is not as it should be."""


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Malformed(f"expected a list of documents for each query, got {_shown(value)}")
    return value


def _hit(item: Any, *, read: Callable[[Any], Document]) -> Hit:
    if not isinstance(item, Mapping) or "document" not in item:
        raise _Malformed(f'expected {{"document", "score"}} for each document, got {_shown(item)}')
    score = item.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise _Malformed(f"a score must be a finite number, got {_shown(score)}")
    return Hit(read(item["document"]), float(score))


def _with_id(document: Any) -> Document:
    if isinstance(document, str):
        raise _Malformed(
            "documents came as text without an id, as CalibAdv's published server sends them; "
            'read them with dialect "calibadv"'
        )
    if not isinstance(document, Mapping):
        raise _Malformed(f'a document must be an object with "id" and "contents", got {_shown(document)}')
    document_id, contents = document.get("id"), document.get("contents")
    if isinstance(document_id, bool) or not isinstance(document_id, str | int) or document_id == "":
        raise _Malformed(f"a document has no id (its fields are {sorted(map(str, document))}); the server must send it")
    if not isinstance(contents, str):
        raise _Malformed(f'document {document_id!r} has no text "contents", got {_shown(contents)}')
    title, text = split_contents(encodable(contents))
    return Document(id=encodable(str(document_id)), title=title, text=text)


def _with_id_and_quotes(document: Any) -> Document:
    read = _with_id(document)
    contents = encodable(document["contents"])
    return read if contents.startswith('"') else Document(id=read.id, title="", text=contents)


def _without_id(document: Any) -> Document:
    if not isinstance(document, str):
        raise _Malformed(
            f'dialect "calibadv" expects documents as text, got {_shown(document)}; '
            'servers that send ids are read with dialect "search-r1"'
        )
    contents = encodable(document)
    title, text = split_contents(contents)
    # The published server quotes a title that is quoted already.
    title = title[1:-1] if len(title) >= 2 and title[0] == title[-1] == '"' else title
    return Document(id=text_sha256(contents), title=title, text=text)


def _shown(value: Any) -> str:
    return shortened(repr(value)[:100])
