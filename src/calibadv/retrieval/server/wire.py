r"""The JSON of the published clients: three forms of a ``/retrieve`` request, two of ``/rerank``, and their answers.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from calibadv.io.serving import RequestRefused
from calibadv.retrieval.corpus.text import encodable, split_contents
from calibadv.retrieval.rerank import rerank_text
from calibadv.retrieval.server.cache import Answer
from calibadv.retrieval.server.config import ServerConfig
from calibadv.retrieval.server.schemas import CALIBADV_FIELDS, RequestModels, SentDocument, SentHit
from calibadv.trajectory import Document

SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for, in any dialect."""

    queries: list[str]
    top_k: int
    """Documents to answer with."""
    as_text: bool
    """CalibAdv's answer (strings) instead of the other dialects' (objects)."""
    return_scores: bool
    keep_order: bool
    """Leave re-ranked documents in the order of retrieval, or in that in which they were sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveRequest(Wanted):
    """A /retrieve request."""

    depth: int
    """Documents to retrieve for a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest(Wanted):
    """A /rerank request."""

    documents: list[list[dict[str, Any]]]
    """As they came, without scores."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in a request body."""
    try:
        record = json.loads(body)
        if b"\\ud" in body or b"\\uD" in body:  # perhaps half of a surrogate pair, which no tokenizer takes
            record = json.loads(encodable(json.dumps(record, ensure_ascii=False)))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, a number of 5,000 digits
        raise RequestRefused(f"the body is not JSON ({error}); send an object", status=400) from None
    if not isinstance(record, dict):
        raise RequestRefused(f"the body must be a JSON object, got {_shown(record)}")
    return record


def parse_retrieve(
    record: Mapping[str, Any], *, models: RequestModels, config: ServerConfig, reranks: bool
) -> RetrieveRequest:
    """Read a /retrieve body; RequestRefused names the field, its value and the remedy."""
    calibadv = [name for name in CALIBADV_FIELDS if name in record]
    try:
        body = models.retrieve.model_validate(record)
    except ValidationError as error:
        raise _refusal(error, known=models.retrieve.model_fields, config=config) from None
    if "query" in record:
        _refuse_together(record, "query", ("queries", *calibadv))
    elif "queries" not in record:
        raise RequestRefused(
            '"queries" is missing: send {"queries": ["...", ...]}, or {"query": "..."} for a single one'
        )
    queries = [body.query] if "query" in record else body.queries
    if calibadv:
        _refuse_together(record, calibadv[0], ("topk",))
        depth, top_k = body.topk_retrieval or config.top_k, body.topk_rerank or config.rerank_top_k
    else:
        top_k = body.topk or (config.rerank_top_k if reranks else config.top_k)
        depth = max(top_k, config.top_k) if reranks else top_k
    _check_hits(len(queries) * depth, config=config, what=f"{len(queries):,} queries times {depth:,} documents")
    return RetrieveRequest(
        queries=queries,
        depth=depth,
        top_k=top_k,
        as_text=bool(calibadv),
        return_scores=bool(body.return_scores),
        keep_order=bool(body.not_sort),
    )


def render_retrieve(request: RetrieveRequest, answers: Sequence[Answer]) -> bytes:
    """The response body: one list a query, in the order of the queries."""
    lists = []
    for answer in answers:
        hits = []
        for row in answer.rows(request.top_k, keep_order=request.keep_order):
            document, score = answer.documents[row], answer.scores[row]
            if request.as_text:
                shown = document.contents
            else:
                shown = b'{"id":%b,"contents":%b}' % (document.id, document.contents)
            hits.append(b'{"document":%b,"score":%b}' % (shown, score) if request.return_scores else shown)
        lists.append(b"[" + b",".join(hits) + b"]")
    return b'{"result":[' + b",".join(lists) + b"]}"


def parse_rerank(record: Mapping[str, Any], *, models: RequestModels, config: ServerConfig) -> RerankRequest:
    """Read a /rerank body."""
    try:
        body = models.rerank.model_validate(record)
    except ValidationError as error:
        raise _refusal(error, known=models.rerank.model_fields, config=config) from None
    lists = record["documents"]
    if len(lists) != len(body.queries):
        raise RequestRefused(
            f'"documents" has {len(lists):,} lists for {len(body.queries):,} queries; send one list a query'
        )
    total = sum(map(len, lists))
    _check_hits(total, config=config, what=f"{total:,} documents")
    return RerankRequest(
        queries=body.queries,
        documents=[[sent.get("document", sent) for sent in documents] for documents in lists],
        top_k=body.rerank_topk or config.rerank_top_k,
        as_text="not_sort" in record,
        return_scores=bool(body.return_scores),
        keep_order=bool(body.not_sort),
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
    title, text = split_contents(sent["contents"])
    return Document(id="", title=title, text=text)


def to_json(value: Any) -> bytes:
    """Compact UTF-8, as the published servers write it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def _refusal(error: ValidationError, *, known: Iterable[str], config: ServerConfig) -> RequestRefused:
    """The first thing that is wrong, in our words."""
    first = error.errors(include_url=False)[0]
    kind, path, value = first["type"], first["loc"], _shown(first["input"])
    if len(path) > 3:  # within a document; the fourth part says which model was tried
        known = SentHit.model_fields if path[3] == "hit" and len(path) == 5 else SentDocument.model_fields
        path = (*path[:3], *path[4:])
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
    if kind == "extra_forbidden":
        return RequestRefused(f'unknown field "{name[:SHOWN_CHARS]}"; known are {", ".join(known)}')
    if path[0] == "documents" and len(path) > 2:
        name, value = (name[: -len(".contents")], "an object") if path[-1] == "contents" else (name, value)
        return RequestRefused(f'"{name}" must be an object with "contents", a string; got {value}')
    list_of = {
        "queries": f'a list of strings, got {value}; a single one goes into "query"',
        "documents": f"a list of lists, one list a query, got {value}",
    }
    size = len(first["input"]) if kind in ("too_long", "string_too_long") else 0
    messages = {
        "missing": f'"{name}" is missing: send {{"queries": ["..."], "documents": [[{{"contents": "..."}}]]}}',
        "list_type": f'"{path[0]}" must be {list_of.get(str(path[0]))}',
        "too_long": f"{size:,} queries in one request, at most {config.max_queries:,} are allowed (max_queries); "
        "send several requests",
        "string_type": f'"{name}" must be a string, got {value}',
        "string_too_long": f'"{name}" has {size:,} characters, at most {config.max_query_chars:,} are allowed '
        "(max_query_chars); shorten it",
        "int_type": f'"{name}" must be a whole number, got {value}',
        "bool_type": f'"{name}" must be true or false, got {value}',
    }
    between = f'"{name}" must be between 1 and {config.max_top_k:,} (max_top_k), got {value}'
    return RequestRefused(messages.get(kind, between))


def _check_hits(total: int, *, config: ServerConfig, what: str) -> None:
    if total > config.max_hits:
        raise RequestRefused(
            f"{what} in one request, at most {config.max_hits:,} documents are allowed (max_hits); split it"
        )


def _refuse_together(record: Mapping[str, Any], name: str, others: Iterable[str]) -> None:
    for other in others:
        if other in record:
            raise RequestRefused(f'"{name}" and "{other}" belong to different dialects; send one of them')


def _shown(value: Any) -> str:
    """A value for an error message, cut to a readable length."""
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
