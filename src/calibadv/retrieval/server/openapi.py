"""The OpenAPI description of the endpoints: what each dialect sends and gets, with examples."""

from __future__ import annotations

from typing import Any

from calibadv.retrieval.server.config import ServerConfig

DESCRIPTION = """\
Finds documents for search agents. `/retrieve` answers the clients of CalibAdv, Search-R1 and SkyRL, told apart by the
fields they send; `/rerank` sorts documents that the client has.

**503** always means: the request is fine, try it again (after `Retry-After` seconds). 4xx means that the request has to
change; `detail` says how.
"""

ADA = '"Ada Lovelace"\nAda Lovelace wrote the first program.'
DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
RETRY = {"Retry-After": {"description": "Seconds to wait before the next attempt", "schema": {"type": "integer"}}}


def retrieve_body(config: ServerConfig) -> dict[str, Any]:
    """The request body of /retrieve: one schema a dialect."""
    number = _number(config)
    flag = {"type": ["boolean", "null"], "default": False}
    queries = _queries(config)
    calibadv = {
        "queries": queries,
        "topk_retrieval": {**number, "description": "documents to retrieve (null: the server's --top-k)"},
        "topk_rerank": {**number, "description": "documents to keep (null: the server's --rerank-top-k)"},
        "return_scores": flag,
        "not_sort": {**flag, "description": "leave re-ranked documents in the order of retrieval"},
    }
    common = {"topk": {**number, "description": "documents to answer with (null: the server's)"}, "return_scores": flag}
    single = {"query": queries["items"], **common}
    return _body(
        {
            "CalibAdv": _object("CalibAdv", calibadv, required=["queries"]),
            "Search-R1": _object("Search-R1", {"queries": queries, **common}, required=["queries"]),
            "SkyRL": _object("SkyRL", single, required=["query"]),
        },
        {
            "CalibAdv": {
                "queries": ["who wrote the first program"],
                "topk_retrieval": 20,
                "topk_rerank": 3,
                "return_scores": True,
                "not_sort": False,
            },
            "Search-R1": {"queries": ["who wrote the first program"], "topk": 3, "return_scores": True},
            "SkyRL": {"query": "who wrote the first program", "topk": 3, "return_scores": True},
        },
    )


def rerank_body(config: ServerConfig) -> dict[str, Any]:
    """The request body of /rerank."""
    flag = {"type": ["boolean", "null"], "default": False}
    text = {"type": "string"}
    document = _object("Document", {"contents": text, "id": {}, "title": {}, "text": {}}, required=["contents"])
    hit = _object("Hit", {"document": document, "score": {}}, required=["document"])
    properties = {
        "queries": _queries(config),
        "documents": {
            "type": "array",
            "description": "one list a query",
            "items": {"type": "array", "items": {"anyOf": [document, hit]}},
        },
        "rerank_topk": _number(config),
        "return_scores": flag,
        "not_sort": {**flag, "description": "leave the order as it came; with this field the answer is CalibAdv's"},
    }
    example = {
        "queries": ["who wrote the first program"],
        "documents": [[{"contents": ADA}, {"contents": '"Charles Babbage"\nHe designed an engine.'}]],
        "rerank_topk": 1,
        "return_scores": True,
    }
    schema = _object("Rerank", properties, required=["queries", "documents"])
    return _body({"Rerank": schema}, {"Search-R1": example, "CalibAdv": {**example, "not_sort": False}})


def retrieve_responses() -> dict[int | str, dict[str, Any]]:
    """The answers of /retrieve."""
    as_object = {"id": "7", "contents": ADA}
    examples = {
        "CalibAdv": {"result": [[{"document": ADA, "score": 1.2}]]},
        "CalibAdv without scores": {"result": [[ADA]]},
        "Search-R1 and SkyRL": {"result": [[{"document": as_object, "score": 0.8}]]},
        "Search-R1 and SkyRL without scores": {"result": [[as_object]]},
    }
    return {**_result(examples), **failures(400, 401, 408, 413, 422, 500, 503)}


def rerank_responses() -> dict[int | str, dict[str, Any]]:
    """The answers of /rerank."""
    examples = {
        "Search-R1": {"result": [[{"document": {"contents": ADA}, "score": 3.4}]]},
        "CalibAdv": {"result": [[{"document": f'(Title: "Ada Lovelace") {ADA.partition(chr(10))[2]}', "score": 3.4}]]},
    }
    return {**_result(examples), **failures(400, 401, 404, 408, 413, 422, 500, 503)}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers that are ``{"detail": "..."}``."""
    meanings = {
        400: "The body is not JSON",
        401: "The bearer token is missing or wrong",
        404: "There is no such thing here",
        408: "The body did not arrive in time",
        413: "The body is too large",
        422: "A field is unknown, has the wrong type, or is beyond a limit",
        500: "The index or the re-ranker failed",
        503: "Not now: loading, the queue is full, or the deadline has passed; try again",
    }
    return {
        status: {
            "description": meanings[status],
            "content": {"application/json": {"schema": DETAIL}},
            **({"headers": RETRY} if status == 503 else {}),
        }
        for status in statuses
    }


def _result(examples: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    hit = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    lists = {"type": "array", "items": {"type": "array", "items": hit}}
    schema = {"type": "object", "properties": {"result": lists}, "required": ["result"], "additionalProperties": False}
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {200: {"description": "One list a query, best first", "content": {"application/json": content}}}


def _body(schemas: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    content = {
        "schema": {"anyOf": list(schemas.values())} if len(schemas) > 1 else next(iter(schemas.values())),
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _object(title: str, properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "title": title,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _number(config: ServerConfig) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": 1, "maximum": config.max_top_k}


def _queries(config: ServerConfig) -> dict[str, Any]:
    query = {"type": "string", "maxLength": config.max_query_chars}
    return {"type": "array", "items": query, "maxItems": config.max_queries}
