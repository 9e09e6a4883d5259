"""What each endpoint takes and gives, as pydantic models: they check requests and describe the endpoints in /docs."""

# No postponed annotations here: the limits in the models of `RequestModels` are those of one server.

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, FailFast, Field, JsonValue, Tag

from calibadv.retrieval.server.config import ServerConfig

DESCRIPTION = """\
Finds documents for search agents. `/retrieve` answers the clients of CalibAdv, Search-R1 and SkyRL, told apart by the
fields they send; `/rerank` sorts documents that the client has.

**503** always means: the request is fine, try it again (after `Retry-After` seconds). 4xx means that the request has to
change; `detail` says how.
"""
CALIBADV_FIELDS = ("topk_retrieval", "topk_rerank", "not_sort")
ASKED = "who wrote the first program"
DIALECTS: dict[str, dict[str, Any]] = {
    "CalibAdv": {
        "queries": [ASKED], "topk_retrieval": 20, "topk_rerank": 3, "not_sort": False, "return_scores": True,
    },
    "Search-R1": {"queries": [ASKED], "topk": 3, "return_scores": True},
    "SkyRL": {"query": ASKED, "topk": 3, "return_scores": True},
}  # fmt: skip
"""A request of each dialect of /retrieve, with all its fields; the first is required."""
ADA = '"Ada Lovelace"\nAda Lovelace wrote the first program.'
RERANK = {"queries": [ASKED], "documents": [[{"contents": ADA}]], "rerank_topk": 1, "return_scores": True}
ANSWERS: list[JsonValue] = [
    {"result": [[{"document": {"id": "7", "contents": ADA}, "score": 0.8}]]},
    {"result": [[{"id": "7", "contents": ADA}]]},
    {"result": [[{"document": ADA, "score": 1.2}]]},
    {"result": [[ADA]]},
]
"""To Search-R1 and SkyRL, with scores and without, and to CalibAdv."""
MEANINGS = {
    400: "The body is not JSON",
    401: "The bearer token is missing or wrong",
    404: "There is no such thing here",
    408: "The body did not arrive in time",
    413: "The body is too large",
    422: "A field is unknown, has the wrong type, or is beyond a limit",
    500: "The index or the re-ranker failed",
    503: "Not now: loading, the queue is full, or the deadline has passed; try again",
}
RERANK_SCHEMA = "#/paths/~1rerank/post/requestBody/content/application~1json/schema/$defs/{model}"

Flag = Annotated[bool | None, Field(default=False)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SentDocument(_Sent):
    """A document to re-rank."""

    contents: str
    id: Any = None
    title: Any = None
    text: Any = None


class SentHit(_Sent):
    """A hit of a search, sent back to be re-ranked."""

    document: SentDocument
    score: Any = None


class Result(BaseModel):
    """One list a query, best first."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": ANSWERS})

    result: list[list[str | dict[str, Any]]]


class Failure(BaseModel):
    """What went wrong."""

    detail: str


class RequestModels:
    """The models of the request bodies, with the limits of one server."""

    def __init__(self, config: ServerConfig) -> None:
        Query = Annotated[str, Field(max_length=config.max_query_chars)]
        Queries = Annotated[list[Query], FailFast(), Field(max_length=config.max_queries)]
        Limited = Annotated[int, Field(ge=1, le=config.max_top_k), BeforeValidator(_whole)]
        Number = Annotated[Limited | None, Field(default=None)]
        Hit = Annotated[SentHit, Tag("hit")] | Annotated[SentDocument, Tag("plain")]
        Sent = Annotated[Hit, Discriminator(lambda v: "hit" if isinstance(v, dict) and "document" in v else "plain")]

        class Retrieve(_Sent):
            query: Query = ""
            queries: Queries = []
            topk: Annotated[Number, Field(description="documents to answer with (null: the server's)")]
            topk_retrieval: Annotated[Number, Field(description="documents to retrieve (null: the server's --top-k)")]
            topk_rerank: Annotated[Number, Field(description="documents to keep (null: the server's --rerank-top-k)")]
            return_scores: Flag
            not_sort: Annotated[Flag, Field(description="leave re-ranked documents in the order of retrieval")]

        class Rerank(_Sent):
            queries: Queries
            documents: Annotated[
                list[Annotated[list[Sent], FailFast()]], FailFast(), Field(description="one list a query")
            ]
            rerank_topk: Number
            return_scores: Flag
            not_sort: Annotated[
                Flag, Field(description="leave the order as it came; with this field the answer is CalibAdv's")
            ]

        self.retrieve: Any = Retrieve
        self.rerank: Any = Rerank


def _whole(value: Any) -> Any:
    """A whole number may be written with a point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def retrieve_body(models: RequestModels) -> dict[str, Any]:
    """The request body of /retrieve in OpenAPI: one schema a dialect."""
    schema = models.retrieve.model_json_schema()
    variants = []
    for title, example in DIALECTS.items():
        shown = {name: schema["properties"][name] for name in example}
        variants.append({**schema, "title": title, "properties": shown, "required": [next(iter(example))]})
    return _body({"anyOf": variants}, DIALECTS)


def rerank_body(models: RequestModels) -> dict[str, Any]:
    """The request body of /rerank in OpenAPI."""
    examples = {"Search-R1": RERANK, "CalibAdv": {**RERANK, "not_sort": False}}
    return _body(models.rerank.model_json_schema(ref_template=RERANK_SCHEMA), examples)


def results(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a search."""
    return {200: {"description": "One list a query, best first", "model": Result}, **failures(*statuses)}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers that are ``{"detail": "..."}``."""
    return {status: {"description": MEANINGS[status], "model": Failure} for status in statuses}


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
