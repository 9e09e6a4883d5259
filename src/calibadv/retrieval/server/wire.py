r"""The JSON of the published clients: three ways to ask ``/retrieve``, two to ask ``/rerank``, and their answers.

A request is recognised by its fields:

- CalibAdv: ``queries`` with any of ``topk_retrieval``, ``topk_rerank``, ``not_sort``
- Search-R1: ``queries``, perhaps ``topk``
- SkyRL: ``query`` (one), perhaps ``topk``; answered as Search-R1's, with one inner list

Documents are strings ``"Title"\ntext`` for CalibAdv and objects ``{"id", "contents"}`` for the others; with
``return_scores`` each becomes ``{"document": ..., "score": ...}``. A number that is left out, or null, is the server's.
``/rerank`` answers in the strings ``(Title: "T") text`` when the request has CalibAdv's ``not_sort``, else it sends the
documents back as they came. Fields that no dialect knows are refused by name, so that a misspelt one is not ignored.

An empty query is a query: a policy writes such, and gets what the index finds for it (BM25: nothing).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calibadv.retrieval.corpus.text import encodable, split_contents
from calibadv.retrieval.rerank import rerank_text
from calibadv.retrieval.server.cache import Answer
from calibadv.retrieval.server.config import ServerConfig
from calibadv.trajectory import Document

Dialect = Literal["calibadv", "search-r1", "skyrl"]
CALIBADV_FIELDS = ("topk_retrieval", "topk_rerank", "not_sort")
RETRIEVE_FIELDS = ("query", "queries", "topk", "return_scores", *CALIBADV_FIELDS)
RERANK_FIELDS = ("queries", "documents", "rerank_topk", "return_scores", "not_sort")
DOCUMENT_FIELDS = ("id", "contents", "title", "text")
SHOWN_CHARS = 80


class BadRequest(Exception):
    """A request that cannot be answered, with its HTTP status; the message goes to the client."""

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveRequest:
    """A /retrieve request of any dialect."""

    dialect: Dialect
    queries: list[str]
    depth: int
    """Documents to retrieve for a query."""
    top_k: int
    """Documents to answer with."""
    return_scores: bool
    keep_order: bool
    """Leave re-ranked documents in the order of retrieval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """A /rerank request."""

    as_text: bool
    """CalibAdv's answer (strings) instead of Search-R1's (the documents that were sent)."""
    queries: list[str]
    documents: list[list[dict[str, Any]]]
    """As they came, without scores."""
    top_k: int
    return_scores: bool
    keep_order: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in a request body."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, a number of 5,000 digits
        raise BadRequest(f"the body is not JSON ({error}); send an object", status=400) from None
    if not isinstance(record, dict):
        raise BadRequest(f"the body must be a JSON object, got {_shown(record)}")
    return record


def parse_retrieve(record: Mapping[str, Any], *, config: ServerConfig, reranks: bool) -> RetrieveRequest:
    """Read a /retrieve body; BadRequest names the field, its value and the remedy."""
    _refuse_unknown(record, RETRIEVE_FIELDS)
    calibadv = [name for name in CALIBADV_FIELDS if name in record]
    if "query" in record:
        _refuse_together(record, "query", ("queries", *calibadv))
        queries = _queries([record["query"]], config=config, name=lambda _: "query")
    elif "queries" in record:
        queries = _queries(record["queries"], config=config)
    else:
        raise BadRequest('"queries" is missing: send {"queries": ["...", ...]}, or {"query": "..."} for a single one')
    return_scores = _flag(record, "return_scores")
    if calibadv:
        _refuse_together(record, calibadv[0], ("topk",))
        depth = _number(record, "topk_retrieval", default=config.top_k, largest=config.max_top_k)
        top_k = _number(record, "topk_rerank", default=config.rerank_top_k, largest=config.max_top_k)
    else:
        top_k = _number(
            record, "topk", default=config.rerank_top_k if reranks else config.top_k, largest=config.max_top_k
        )
        depth = max(top_k, config.top_k) if reranks else top_k
    _check_hits(len(queries) * depth, config=config, what=f"{len(queries):,} queries times {depth:,} documents")
    return RetrieveRequest(
        dialect="calibadv" if calibadv else "skyrl" if "query" in record else "search-r1",
        queries=queries,
        depth=depth,
        top_k=top_k,
        return_scores=return_scores,
        keep_order=_flag(record, "not_sort"),
    )


def render_retrieve(request: RetrieveRequest, answers: Sequence[Answer]) -> bytes:
    """The response body: one list a query, in the order of the queries."""
    as_text, with_scores = request.dialect == "calibadv", request.return_scores
    lists = []
    for answer in answers:
        hits = []
        for row in answer.rows(request.top_k, keep_order=request.keep_order):
            document = answer.documents[row]
            shown = document.contents if as_text else b'{"id":%b,"contents":%b}' % (document.id, document.contents)
            hits.append(b'{"document":%b,"score":%b}' % (shown, answer.scores[row]) if with_scores else shown)
        lists.append(b"[" + b",".join(hits) + b"]")
    return b'{"result":[' + b",".join(lists) + b"]}"


def parse_rerank(record: Mapping[str, Any], *, config: ServerConfig) -> RerankRequest:
    """Read a /rerank body."""
    _refuse_unknown(record, RERANK_FIELDS)
    for name in ("queries", "documents"):
        if name not in record:
            raise BadRequest(
                f'"{name}" is missing: send {{"queries": ["..."], "documents": [[{{"contents": "..."}}]]}}'
            )
    queries = _queries(record["queries"], config=config)
    lists = record["documents"]
    if not isinstance(lists, list) or not all(isinstance(documents, list) for documents in lists):
        raise BadRequest(f'"documents" must be a list of lists, one list a query, got {_shown(lists)}')
    if len(lists) != len(queries):
        raise BadRequest(f'"documents" has {len(lists):,} lists for {len(queries):,} queries; send one list a query')
    total = sum(map(len, lists))
    _check_hits(total, config=config, what=f"{total:,} documents")
    documents = [
        [_sent_document(document, where=f"documents[{i}][{j}]") for j, document in enumerate(sent)]
        for i, sent in enumerate(lists)
    ]
    return RerankRequest(
        as_text="not_sort" in record,
        queries=queries,
        documents=documents,
        top_k=_number(record, "rerank_topk", default=config.rerank_top_k, largest=config.max_top_k),
        return_scores=_flag(record, "return_scores"),
        keep_order=_flag(record, "not_sort"),
    )


def render_rerank(request: RerankRequest, scores: Sequence[Sequence[float]]) -> bytes:
    """The response body of /rerank."""
    result = []
    for documents, numbers in zip(request.documents, scores, strict=True):
        rows = range(len(numbers))
        order = list(rows) if request.keep_order else sorted(rows, key=lambda row: -numbers[row])
        hits: list[Any] = []
        for row in order[: request.top_k]:
            shown: Any = rerank_text(read_document(documents[row])) if request.as_text else documents[row]
            hits.append({"document": shown, "score": numbers[row]} if request.return_scores else shown)
        result.append(hits)
    return to_json({"result": result})


def read_document(sent: Mapping[str, Any]) -> Document:
    """A document of a /rerank request."""
    title, text = split_contents(encodable(sent["contents"]))
    return Document(id="", title=title, text=text)


def to_json(value: Any) -> bytes:
    """Compact UTF-8, as the published servers write it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _queries(value: Any, *, config: ServerConfig, name: Callable[[int], str] = "queries[{}]".format) -> list[str]:
    if not isinstance(value, list):
        raise BadRequest(f'"queries" must be a list of strings, got {_shown(value)}; a single one goes into "query"')
    if len(value) > config.max_queries:
        raise BadRequest(
            f"{len(value):,} queries in one request, at most {config.max_queries:,} are allowed (max_queries); "
            "send several requests"
        )
    for index, query in enumerate(value):
        if not isinstance(query, str):
            raise BadRequest(f'"{name(index)}" must be a string, got {_shown(query)}')
        if len(query) > config.max_query_chars:
            raise BadRequest(
                f'"{name(index)}" has {len(query):,} characters, at most {config.max_query_chars:,} are allowed '
                "(max_query_chars); shorten it"
            )
    return [encodable(query) for query in value]


def _number(record: Mapping[str, Any], name: str, *, default: int, largest: int) -> int:
    value = record.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f'"{name}" must be a whole number, got {_shown(value)}')
    if not 1 <= value <= largest:
        raise BadRequest(f'"{name}" must be between 1 and {largest:,} (max_top_k), got {_shown(value)}')
    return value


def _flag(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f'"{name}" must be true or false, got {_shown(value)}')
    return value


def _sent_document(value: Any, *, where: str) -> dict[str, Any]:
    """``{"contents": ...}``, or the hit of a search with the document inside."""
    if isinstance(value, dict) and "document" in value:
        _refuse_unknown(value, ("document", "score"), where=f"{where}.")
        value, where = value["document"], f"{where}.document"
    if not isinstance(value, dict) or not isinstance(value.get("contents"), str):
        raise BadRequest(f'"{where}" must be an object with "contents", a string; got {_shown(value)}')
    _refuse_unknown(value, DOCUMENT_FIELDS, where=f"{where}.")
    return value


def _check_hits(total: int, *, config: ServerConfig, what: str) -> None:
    if total > config.max_hits:
        raise BadRequest(
            f"{what} in one request, at most {config.max_hits:,} documents are allowed (max_hits); split it"
        )


def _refuse_unknown(record: Mapping[str, Any], known: Sequence[str], *, where: str = "") -> None:
    for name in record:
        if name not in known:
            raise BadRequest(f'unknown field "{where}{name[:SHOWN_CHARS]}"; known are {", ".join(known)}')


def _refuse_together(record: Mapping[str, Any], name: str, others: Sequence[str]) -> None:
    for other in others:
        if other in record:
            raise BadRequest(f'"{name}" and "{other}" belong to different dialects; send one of them')


def _shown(value: Any) -> str:
    """A value for an error message, cut to a readable length."""
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
