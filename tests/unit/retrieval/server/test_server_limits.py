"""What /retrieve and /rerank refuse, with which status, and that the message says what to do."""

import json
import socket
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.retrieval.server import ServerConfig

LONG = "x" * 8_193


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": ["q"], "topk": 0}, '"topk" must be between 1 and 1,000 (max_top_k), got 0'),
        ({"queries": ["q"], "topk": 10**9}, '"topk" must be between 1 and 1,000 (max_top_k), got 1000000000'),
        ({"queries": ["q"], "topk": -3}, '"topk" must be between 1 and 1,000 (max_top_k), got -3'),
        ({"queries": ["q"], "topk": "3"}, '"topk" must be a whole number, got "3"'),
        ({"queries": ["q"], "topk": True}, '"topk" must be a whole number, got true'),
        ({"queries": ["q"], "topk": 2.5}, '"topk" must be a whole number, got 2.5'),
        ({"queries": ["q"], "topk": [3]}, '"topk" must be a whole number, got a list of 1'),
        ({"queries": ["q"], "topk_rerank": 0}, '"topk_rerank" must be between 1 and 1,000 (max_top_k), got 0'),
        ({"queries": ["q"], "topk_retrieval": 1001}, '"topk_retrieval" must be between 1 and 1,000 (max_top_k), got'),
        ({"queries": ["q"], "return_scores": 1}, '"return_scores" must be true or false, got 1'),
        ({"queries": ["q"], "not_sort": "no"}, '"not_sort" must be true or false, got "no"'),
        ({"queries": ["q"], "top_k": 3}, 'unknown field "top_k"; known are query, queries, topk'),
        ({"queries": ["q"], "topk": 3, "topk_rerank": 3}, '"topk_rerank" and "topk" belong to different dialects'),
        ({"queries": ["q"], "query": "q"}, '"query" and "queries" belong to different dialects; send one of them'),
        ({"query": "q", "not_sort": True}, '"query" and "not_sort" belong to different dialects'),
        ({"query": ["q"]}, '"query" must be a string, got a list of 1'),
        ({"query": None}, '"query" must be a string, got null'),
        ({"queries": "q"}, '"queries" must be a list of strings, got "q"; a single one goes into "query"'),
        ({"queries": None}, '"queries" must be a list of strings, got null'),
        ({"queries": ["q", 7]}, '"queries[1]" must be a string, got 7'),
        ({"queries": ["q", LONG]}, '"queries[1]" has 8,193 characters, at most 8,192 are allowed (max_query_chars)'),
        ({"queries": ["q"] * 10_000}, "10,000 queries in one request, at most 4,096 are allowed (max_queries)"),
        ({"queries": ["q"] * 101, "topk": 1000}, "101 queries times 1,000 documents in one request, at most 100,000"),
        ({"topk": 3}, '"queries" is missing'),
        ({}, '"queries" is missing'),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_refused_with_the_remedy(plain: Any, fields: Any, message: str) -> None:
    response = plain.post("/retrieve", **fields)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"queries": ["q"]}, '"documents" is missing'),
        ({"queries": ["q"], "documents": []}, '"documents" has 0 lists for 1 queries; send one list a query'),
        ({"queries": ["q"], "documents": ["a"]}, '"documents" must be a list of lists'),
        ({"queries": ["q"], "documents": [["a"]]}, '"documents[0][0]" must be an object with "contents"'),
        ({"queries": ["q"], "documents": [[{"text": "a"}]]}, '"documents[0][0]" must be an object with "contents"'),
        ({"queries": ["q"], "documents": [[{"document": "a"}]]}, '"documents[0][0].document" must be an object'),
        ({"queries": ["q"], "documents": [[{"contents": "a", "body": 1}]]}, 'unknown field "documents[0][0].body"'),
        ({"queries": ["q"], "documents": [[]], "rerank_topk": 0}, '"rerank_topk" must be between 1 and 1,000'),
        ({"queries": ["q"], "documents": [[]], "topk": 3}, 'unknown field "topk"'),
    ],
)  # fmt: skip
def test_a_rerank_request_that_cannot_be_answered_is_refused(reranking: Any, fields: Any, message: str) -> None:
    response = reranking.post("/rerank", **fields)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"queries": ["q"]',
        b"\xff\xfe\xff",
        b"[" * 100_000,
        b'{"queries": ["q"], "topk": ' + b"9" * 5_000 + b"}",
        b"nothing",
    ],
    ids=["empty", "brace", "cut", "not text", "deep", "5,000 digits", "word"],
)
def test_a_body_that_is_not_json_is_400(plain: Any, body: Any) -> None:
    response = plain.client.post("/retrieve", content=body)
    assert response.status_code == 400
    assert "is not JSON" in response.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b"3", b'"q"', b"null", b"true", b"NaN"])
def test_a_body_that_is_no_object_is_422(plain: Any, body: Any) -> None:
    response = plain.client.post("/retrieve", content=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("the body must be a JSON object, got ")


def test_a_whole_number_may_be_written_with_a_point(plain: Any) -> None:
    assert plain.client.post("/retrieve", content=b'{"queries": ["q"], "topk": 2.0}').status_code == 200


def test_a_query_of_a_megabyte_is_refused_and_the_server_goes_on(plain: Any) -> None:
    response = plain.post("/retrieve", queries=["x" * 2**20])
    assert response.status_code == 422
    assert "max_query_chars" in response.json()["detail"]
    assert plain.retrieve(queries=["q"], topk=1)


def test_half_a_surrogate_pair_in_a_query_is_replaced(plain: Any) -> None:
    response = plain.client.post("/retrieve", content=rb'{"queries": ["\ud83d lone", "\ud83d\ude00"], "topk": 1}')
    assert response.status_code == 200
    assert len(response.json()["result"]) == 2


def test_a_body_beyond_the_limit_is_413_whether_its_length_is_announced_or_not(serving: Any, make_backend: Any) -> None:
    with serving(make_backend(), config=ServerConfig(max_body_bytes=1_000)) as running:
        body = json.dumps({"queries": ["x" * 2_000]}).encode()
        for content in (body, iter([body[:600], body[600:]])):
            response = running.client.post("/retrieve", content=content)
            assert response.status_code == 413
            assert "max_body_bytes" in response.json()["detail"]
        assert running.retrieve(queries=["q"], topk=1)


def test_a_body_that_does_not_arrive_is_408(serving: Any, make_backend: Any) -> None:
    with serving(make_backend(), config=ServerConfig(request_timeout_s=0.2)) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert connection.recv(1_000).startswith(b"HTTP/1.1 408")


def test_unknown_paths_and_methods_are_not_server_errors(plain: Any) -> None:
    assert plain.client.get("/nothing").status_code == 404
    assert plain.client.get("/retrieve").status_code == 405
    assert plain.client.post("/health").status_code == 405


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"top_k": 2_000}, "top_k must be <= max_top_k (1000), got 2000"),
        ({"max_queue": 10}, "max_queue must be >= max_queries (4096), got 10"),
        ({"request_timeout_s": 0}, "request_timeout_s must be > 0, got 0"),
        ({"cache_mb": -1}, "cache_mb must be >= 0, got -1"),
        ({"port": 70_000}, "port must be between 0 and 65535, got 70000"),
        ({"token": "not one word"}, "CALIBADV_RETRIEVER_TOKEN must be printable ASCII"),
        ({"token": ""}, "CALIBADV_RETRIEVER_TOKEN must be printable ASCII"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServerConfig(**settings)
    assert str(caught.value).startswith(message)


def test_the_token_is_not_shown() -> None:
    assert "hush" not in repr(ServerConfig(token="hush"))
