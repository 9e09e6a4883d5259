"""The bodies of /retrieve and /rerank, to the byte, as the published clients expect them."""

import shutil
import subprocess
from typing import Any

import pytest

ADA_TEXT = r'"\"Ada Lovelace\"\nwrote the first program"'
BABBAGE_TEXT = r'"\"Charles Babbage\"\ndesigned the \"engine\" of brass; naïve ☃"'


def body(running: Any, path: Any = "/retrieve", **fields: Any) -> Any:
    response = running.post(path, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.content.decode()


def test_search_r1_with_scores_gets_objects_with_id_and_contents(plain: Any) -> None:
    got = body(plain, queries=["q", "r"], topk=1, return_scores=True)
    hit = f'{{"document":{{"id":"ada","contents":{ADA_TEXT}}},"score":1.0}}'
    assert got == f'{{"result":[[{hit}],[{hit}]]}}'


def test_search_r1_without_scores_gets_plain_documents(plain: Any) -> None:
    got = body(plain, queries=["q"], topk=2)
    assert got == (
        f'{{"result":[[{{"id":"ada","contents":{ADA_TEXT}}},{{"id":"babbage","contents":{BABBAGE_TEXT}}}]]}}'
    )


def test_calibadv_with_scores_gets_strings(plain: Any) -> None:
    got = body(plain, queries=["q"], topk_retrieval=20, topk_rerank=2, return_scores=True, not_sort=False)
    assert got == (f'{{"result":[[{{"document":{ADA_TEXT},"score":1.0}},{{"document":{BABBAGE_TEXT},"score":0.5}}]]}}')


def test_calibadv_without_scores_gets_lists_of_strings(plain: Any) -> None:
    assert body(plain, queries=["q"], topk_rerank=1) == f'{{"result":[[{ADA_TEXT}]]}}'


def test_skyrl_asks_one_query_and_gets_one_inner_list(plain: Any) -> None:
    got = body(plain, query="q", topk=1, return_scores=True)
    assert got == f'{{"result":[[{{"document":{{"id":"ada","contents":{ADA_TEXT}}},"score":1.0}}]]}}'


def test_a_document_without_a_title_is_its_text_alone(plain: Any) -> None:
    assert plain.retrieve(queries=["q"], topk=3)[0][2] == {"id": "x/7", "contents": "no title here"}


def test_numbers_left_out_or_null_are_those_of_the_server(plain: Any, reranking: Any) -> None:
    assert len(plain.retrieve(queries=["q"])[0]) == 3
    assert len(plain.retrieve(queries=["q"], topk=None, return_scores=None)[0]) == 3
    assert len(plain.retrieve(queries=["q"], topk_retrieval=None)[0]) == 3
    assert len(plain.retrieve(queries=["q"], topk_retrieval=2)[0]) == 2
    assert len(reranking.retrieve(queries=["q"])[0]) == 3


def test_no_queries_get_no_lists(plain: Any) -> None:
    assert body(plain, queries=[]) == '{"result":[]}'


def test_an_empty_query_is_answered_as_the_index_answers_it(plain: Any) -> None:
    assert len(plain.retrieve(queries=["", "  "], topk=1)) == 2


def test_reranked_documents_come_by_the_score_of_the_reranker(reranking: Any) -> None:
    asked = {"queries": ["designed brass;"], "topk_retrieval": 3, "topk_rerank": 2, "return_scores": True}
    got = body(reranking, **asked)
    assert got == (f'{{"result":[[{{"document":{BABBAGE_TEXT},"score":2.0}},{{"document":{ADA_TEXT},"score":0.0}}]]}}')
    (hits,) = reranking.retrieve(queries=["designed brass;"], topk=1, return_scores=True)
    assert [(hit["document"]["id"], hit["score"]) for hit in hits] == [("babbage", 2.0)]


def test_not_sort_keeps_the_order_of_retrieval_with_the_scores_of_the_reranker(reranking: Any) -> None:
    asked = {"queries": ["designed brass;"], "topk_retrieval": 3, "topk_rerank": 2, "return_scores": True}
    (hits,) = reranking.retrieve(**asked, not_sort=True)
    assert [hit["score"] for hit in hits] == [0.0, 2.0]


def test_candidates_beyond_topk_retrieval_are_not_read(reranking: Any) -> None:
    asked = {"queries": ["designed brass;"], "topk_retrieval": 1, "topk_rerank": 3, "return_scores": True}
    assert [hit["score"] for hit in reranking.retrieve(**asked)[0]] == [0.0]


DOCUMENTS = [[{"contents": '"A"\nfirst'}, {"document": {"id": "9", "contents": '"B"\nsecond'}, "score": 3.0}]]


def test_rerank_sends_the_documents_of_search_r1_back_as_they_came(reranking: Any) -> None:
    got = body(reranking, "/rerank", queries=["second"], documents=DOCUMENTS, return_scores=True)
    assert got == (
        r'{"result":[[{"document":{"id":"9","contents":"\"B\"\nsecond"},"score":1.0},'
        r'{"document":{"contents":"\"A\"\nfirst"},"score":0.0}]]}'
    )
    got = body(reranking, "/rerank", queries=["second"], documents=DOCUMENTS, rerank_topk=1)
    assert got == r'{"result":[[{"id":"9","contents":"\"B\"\nsecond"}]]}'


def test_rerank_answers_calibadv_in_strings(reranking: Any) -> None:
    asked = {"queries": ["second"], "documents": DOCUMENTS, "rerank_topk": 2}
    got = body(reranking, "/rerank", **asked, return_scores=True, not_sort=False)
    assert got == (
        r'{"result":[[{"document":"(Title: \"B\") second","score":1.0},'
        r'{"document":"(Title: \"A\") first","score":0.0}]]}'
    )
    assert body(reranking, "/rerank", **asked, not_sort=True) == (
        r'{"result":[["(Title: \"A\") first","(Title: \"B\") second"]]}'
    )


def test_rerank_without_a_reranker_says_how_to_get_one(plain: Any) -> None:
    response = plain.post("/rerank", queries=["q"], documents=[[{"contents": "a"}]])
    assert response.status_code == 404
    assert response.json() == {"detail": "this server has no re-ranker; start it with --rerank MODEL"}


def test_documents_of_one_query_that_differ_in_text_alone_are_different_work(reranking: Any) -> None:
    for text in ("first", "second"):
        asked = {"queries": ["second"], "documents": [[{"contents": text}]], "return_scores": True}
        (hits,) = reranking.post("/rerank", **asked).json()["result"]
        assert hits[0]["score"] == (text == "second")


def test_curl_gets_the_documented_bodies(plain: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def curl(data: Any) -> Any:
        command = ["curl", "-s", "--noproxy", "*", f"{plain.url}/retrieve", "-d", data]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert curl('{"queries": ["q"], "topk": 1, "return_scores": true}') == (
        f'{{"result":[[{{"document":{{"id":"ada","contents":{ADA_TEXT}}},"score":1.0}}]]}}'
    )
    assert curl(
        '{"queries": ["q"], "topk_retrieval": 20, "topk_rerank": 1, "return_scores": true, "not_sort": false}'
    ) == (f'{{"result":[[{{"document":{ADA_TEXT},"score":1.0}}]]}}')


def test_a_document_is_found_by_its_id(plain: Any) -> None:
    assert plain.client.get("/documents/ada").json() == {
        "id": "ada", "title": "Ada Lovelace", "text": "wrote the first program",
    }  # fmt: skip
    assert plain.client.get("/documents/x/7").json()["text"] == "no title here"
    missing = plain.client.get("/documents/nobody")
    assert missing.status_code == 404
    assert missing.json() == {"detail": "no document with the id 'nobody'"}
