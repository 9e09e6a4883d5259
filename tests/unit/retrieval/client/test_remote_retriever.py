"""The retriever on a server, against real local servers: dialects, retries, fail-over; a failure stays a failure."""

import gzip
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from calibadv.errors import ConfigError, RetrieverError, RetrieverUnavailable
from calibadv.io.clock import FakeClock
from calibadv.io.retry import NO_RETRY, Retry
from calibadv.retrieval.client.retriever import RemoteClientConfig, RemoteRetriever
from calibadv.retrieval.client.servers import TOKEN_VARIABLE

FAST = RemoteClientConfig(connect_timeout_s=1.0)
SHORT = Retry(retries=2, first_wait_s=0.01, longest_wait_s=0.05)
HEALTH = {
    "status": "ready",
    "version": "v1",
    "num_documents": 9,
    "index": {"method": "bm25", "corpus_sha256": "c0ffee"},
    "reranker": None,
    "defaults": {"top_k": 20, "rerank_top_k": 3},
    "limits": {"max_queries": 100, "max_hits": 10_000},
}


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.fixture
def remote() -> Iterator[Any]:
    """Makes retrievers with short waits, and closes them."""
    opened = []

    def make(*urls: Any, **settings: Any) -> Any:
        opened.append(RemoteRetriever(urls, **{"retry": SHORT, "timeout_s": 5.0, "config": FAST, **settings}))
        return opened[-1]

    yield make
    for retriever in opened:
        retriever.close()


@pytest.fixture
def ours(serve: Any, reply: Any) -> Any:
    """A server that answers as calibadv's own does; ``before(request)`` may answer instead."""

    def start(before: Any = lambda request: None, *, health: Any = HEALTH, port: Any = 0) -> Any:
        def answer(request: Any) -> Any:
            early = before(request)
            if early is not None:
                return early
            if request.path == "/health":
                return reply(health)
            k = request.json["topk"]
            return reply({"result": [[hit(query, rank) for rank in range(k)] for query in request.json["queries"]]})

        return serve(answer, port=port)

    return start


def hit(query: Any, rank: Any) -> Any:
    contents = f'"About {query}"\ntext {rank}'
    return {"document": {"id": f"{query}-{rank}", "contents": contents}, "score": 1.0 / (rank + 1)}


def ids(found: Any) -> Any:
    return [[hit.document.id for hit in hits] for hits in found]


def searches(server: Any) -> Any:
    return server.sent("/retrieve")


def test_hits_carry_id_title_text_and_score_in_the_order_of_the_queries(ours: Any, remote: Any) -> None:
    found = remote(ours().url).search(["b", "a"], 2)
    assert ids(found) == [["b-0", "b-1"], ["a-0", "a-1"]]
    first = found[0][0]
    assert (first.document.title, first.document.text, first.score) == ("About b", "text 0", 1.0)


def test_the_request_is_what_search_r1_servers_read(ours: Any, remote: Any) -> None:
    server = ours()
    remote(server.url).search(["who?", "ünï \ud800 code"], 3)
    (request,) = searches(server)
    assert request.json == {"queries": ["who?", "ünï \ud800 code"], "topk": 3, "return_scores": True}
    assert request.headers["content-type"] == "application/json"


def test_an_address_with_the_path_of_the_search_is_the_same_server(ours: Any, remote: Any) -> None:
    server = ours()
    remote(f"{server.url}/retrieve").search(["q"], 1)
    assert len(searches(server)) == 1


def test_equal_queries_are_sent_once_and_each_gets_its_own_list(ours: Any, remote: Any) -> None:
    server = ours()
    found = remote(server.url).search(["a", "b", "a"], 1)
    assert searches(server)[0].json["queries"] == ["a", "b"]
    assert ids(found) == [["a-0"], ["b-0"], ["a-0"]]
    assert found[0] is not found[2]


def test_no_queries_need_no_request(ours: Any, remote: Any) -> None:
    server = ours()
    assert remote(server.url).search([], 3) == []
    assert not server.requests


def test_a_long_list_is_split_to_the_limits_of_the_server(ours: Any, remote: Any) -> None:
    server = ours()
    queries = [f"q{i}" for i in range(250)]
    assert ids(remote(server.url).search(queries, 2)) == [[f"{q}-0", f"{q}-1"] for q in queries]
    assert sorted(len(r.json["queries"]) for r in searches(server)) == [83, 83, 84]
    assert len(server.sent("/health")) == 1


def test_the_limit_on_hits_counts_what_a_re_ranking_server_retrieves(ours: Any, remote: Any) -> None:
    limits = {"max_queries": 100, "max_hits": 200}
    plain = ours(health=HEALTH | {"limits": limits})
    remote(plain.url).search([f"q{i}" for i in range(90)], 3)
    assert [len(r.json["queries"]) for r in searches(plain)] == [45, 45]
    reranking = ours(health=HEALTH | {"limits": limits, "reranker": {"model": "m"}})
    remote(reranking.url).search([f"q{i}" for i in range(20)], 3)
    assert [len(r.json["queries"]) for r in searches(reranking)] == [10, 10]


def test_more_hits_than_asked_for_are_cut(serve: Any, reply: Any, remote: Any) -> None:
    server = serve(lambda r: reply({"result": [[hit("q", rank) for rank in range(9)]]}, status=200))
    assert ids(remote(server.url).search(["q"], 2)) == [["q-0", "q-1"]]


def test_a_query_without_hits_is_a_result(serve: Any, reply: Any, remote: Any) -> None:
    server = serve(lambda r: reply({"result": [[]]}))
    assert remote(server.url).search(["zebra"], 3) == [[]]


def test_numbers_as_ids_and_titles_without_text_are_read(serve: Any, reply: Any, remote: Any) -> None:
    items = [{"document": {"id": 7, "contents": "no title"}, "score": 2}]
    (hits,) = remote(serve(lambda r: reply({"result": [items]})).url).search(["q"], 1)
    assert (hits[0].document.id, hits[0].document.title, hits[0].document.text) == ("7", "", "no title")


def test_a_document_without_title_comes_back_as_it_is_in_the_corpus(ours: Any, reply: Any, remote: Any) -> None:
    document = {"document": {"id": "7", "contents": "first line\nsecond line"}, "score": 1.0}
    server = ours(failing(reply, reply({"result": [[document]]})))
    ((found,),) = remote(server.url).search(["q"], 1)
    assert (found.document.title, found.document.text) == ("", "first line\nsecond line")


def test_halves_of_surrogate_pairs_are_replaced(serve: Any, reply: Any, remote: Any) -> None:
    items = [{"document": {"id": "\udc00", "contents": '"T"\nbad \ud800 text'}, "score": 2}]
    (hits,) = remote(serve(lambda r: reply({"result": [items]})).url).search(["q"], 1)
    hits[0].document.text.encode()
    hits[0].document.id.encode()


# Published servers: no /health, no version.


def published(reply: Any, content: Any) -> Any:
    def answer(request: Any) -> Any:
        if request.path != "/retrieve":
            return reply({"detail": "Not Found"}, status=404)
        return reply({"result": [[content] for _ in request.json["queries"]]})

    return answer


def test_a_published_search_r1_server_works_and_its_manifest_says_that_the_index_is_unknown(
    serve: Any, reply: Any, remote: Any
) -> None:
    item = {"document": {"id": "3", "contents": '"Ada"\nwrote', "title": '"Ada"', "text": "wrote"}, "score": 0.5}
    server = serve(published(reply, item))
    retriever = remote(server.url)
    retriever.wait_until_ready(1)
    assert ids(retriever.search(["q"], 3)) == [["3"]]
    assert retriever.manifest()["note"] == "the server does not say which index it serves"
    assert retriever.version.startswith("unversioned-")


def test_a_published_calibadv_server_gives_ids_made_from_the_contents(serve: Any, reply: Any, remote: Any) -> None:
    contents = '""Ada""\nwrote programs'  # the published server quotes quoted titles
    server = serve(published(reply, {"document": contents, "score": 4.5}))
    (hits,) = remote(server.url, dialect="calibadv").search(["q"], 3)
    assert searches(server)[0].json == {
        "queries": ["q"],
        "topk_retrieval": 20,
        "topk_rerank": 3,
        "return_scores": True,
        "not_sort": False,
    }
    document = hits[0].document
    assert (document.title, document.text) == ("Ada", "wrote programs")
    assert document.id == hashlib.sha256(contents.encode()).hexdigest()


def test_the_wrong_dialect_is_named(serve: Any, reply: Any, remote: Any) -> None:
    text = serve(published(reply, {"document": '"T"\nx', "score": 1.0}))
    with pytest.raises(RetrieverError, match='read them with dialect "calibadv"'):
        remote(text.url).search(["q"], 1)
    objects = serve(published(reply, {"document": {"id": "1", "contents": "x"}, "score": 1.0}))
    with pytest.raises(RetrieverError, match='read with dialect "search-r1"'):
        remote(objects.url, dialect="calibadv").search(["q"], 1)


# What passes is tried again.


def failing(reply: Any, *early: Any) -> Any:
    """Answers the first searches with these replies."""
    replies = list(early)

    def before(request: Any) -> Any:
        return replies.pop(0) if request.path == "/retrieve" and replies else None

    return before


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_state_that_passes_is_tried_again(ours: Any, reply: Any, remote: Any, status: Any) -> None:
    server = ours(failing(reply, reply({"detail": "later"}, status=status), reply({}, status=status)))
    assert ids(remote(server.url).search(["q"], 1)) == [["q-0"]]
    assert len(searches(server)) == 3


def test_retry_after_is_waited_for(ours: Any, reply: Any, remote: Any) -> None:
    server = ours(failing(reply, reply({}, status=503, headers={"Retry-After": "0.3"})))
    clock = FakeClock()
    remote(server.url, retry=Retry(first_wait_s=0.01, clock=clock)).search(["q"], 1)
    assert clock.waits == [pytest.approx(0.3, abs=0.01)]


def test_an_answer_cut_off_in_the_middle_is_tried_again(ours: Any, reply: Any, remote: Any) -> None:
    server = ours(failing(reply, reply({"result": [[]]}, cut_at=5), reply(drop=True)))
    assert ids(remote(server.url).search(["q"], 1)) == [["q-0"]]
    assert len(searches(server)) == 3


def test_a_hanging_server_is_given_up_in_time(ours: Any, reply: Any, remote: Any) -> None:
    server = ours(lambda r: reply({}, seconds=3) if r.path == "/retrieve" else None)
    start = time.monotonic()
    with pytest.raises(RetrieverError, match=r"no answer after 2 attempts.*no answer within 0\.2 s"):
        remote(server.url, timeout_s=0.2, retry=replace(SHORT, retries=1)).search(["q"], 1)
    assert time.monotonic() - start < 2


def test_an_answer_that_trickles_in_is_given_up_in_time(
    serve: Any, reply: Any, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"result": [[]]}'

    def slowly(self, answer: Any) -> None:  # type: ignore[no-untyped-def]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.1)

    server = serve(lambda r: reply({}, status=404) if r.path == "/health" else reply({}))
    handler = server._server.RequestHandlerClass
    usual = handler.reply
    handler.reply = lambda self, answer: (usual if answer.status == 404 else slowly)(self, answer)
    with pytest.raises(RetrieverError, match=r"not complete within 0\.3 s"):
        remote(server.url, timeout_s=0.3, retry=NO_RETRY).search(["q"], 1)
    server.stop()


def test_a_search_that_finally_fails_raises_and_leaves_it_to_the_desk_whether_the_retriever_is_gone(
    dead_url: Any, remote: Any
) -> None:
    with pytest.raises(RetrieverError, match="no answer after 3 attempts") as raised:
        remote(dead_url).search(["q"], 1)
    assert not isinstance(raised.value, RetrieverUnavailable)
    assert dead_url in str(raised.value)


# What does not pass is not.


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 307])
def test_other_states_are_final_and_the_message_of_the_server_is_passed_on(
    ours: Any, reply: Any, remote: Any, status: Any
) -> None:
    server = ours(failing(reply, *[reply({"detail": '"queries[3]" is too long'}, status=status)] * 3))
    with pytest.raises(RetrieverError, match=rf'answered {status}: "queries\[3\]" is too long'):
        remote(server.url).search(["q"], 1)
    assert len(searches(server)) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>hello</html>", "not JSON"),
        (b'{"result": [[]', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'no list "result"'),
        (b'{"result": null}', 'no list "result"'),
        (b'{"result": []}', "0 lists of documents for 1 queries"),
        (b'{"result": [[], []]}', "2 lists of documents for 1 queries"),
        (b'{"result": [null]}', "expected a list of documents"),
        (b'{"result": [["text"]]}', 'expected {"document", "score"}'),
        (b'{"result": [[{"id": "1", "contents": "x"}]]}', 'expected {"document", "score"}'),
        (b'{"result": [[{"document": {"contents": "x"}, "score": 1}]]}', "no id"),
        (b'{"result": [[{"document": {"id": null, "contents": "x"}, "score": 1}]]}', "no id"),
        (b'{"result": [[{"document": {"id": "1"}, "score": 1}]]}', 'no text "contents"'),
        (b'{"result": [[{"document": 7, "score": 1}]]}', "must be an object"),
        (b'{"result": [[{"document": {"id": "1", "contents": "x"}}]]}', "score must be a finite number"),
        (b'{"result": [[{"document": {"id": "1", "contents": "x"}, "score": NaN}]]}', "score must be a finite number"),
        (b'{"result": [[{"document": {"id": "1", "contents": "x"}, "score": "1"}]]}', "score must be a finite number"),
    ],
)
def test_a_malformed_answer_is_an_error_and_never_an_empty_result(
    ours: Any, reply: Any, remote: Any, body: Any, message: str
) -> None:
    server = ours(lambda r: reply(body=body) if r.path == "/retrieve" else None)
    with pytest.raises(RetrieverError) as raised:
        remote(server.url).search(["q"], 1)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 700
    assert len(searches(server)) == 1


# Several servers.


def test_with_one_dead_server_the_other_answers_and_the_dead_one_is_left_alone(
    ours: Any, remote: Any, dead_url: Any
) -> None:
    server = ours()
    retriever = remote(dead_url, server.url)
    for query in "abcdefgh":
        assert ids(retriever.search([query], 1)) == [[f"{query}-0"]]
    dead = retriever._set.servers[0]
    assert dead.failures == 2  # then it rests
    assert dead.rests_until > time.monotonic() + 3


def test_a_hanging_server_costs_its_time_out_twice_at_most(ours: Any, reply: Any, remote: Any) -> None:
    hanging = ours(lambda r: reply({}, seconds=5))
    retriever = remote(hanging.url, ours().url, timeout_s=0.2)
    retriever._set.servers[0].info = None
    start = time.monotonic()
    for query in "abcdefghij":
        retriever.search([query], 1)
    assert len(hanging.requests) <= 2
    assert time.monotonic() - start < 3


def test_a_busy_server_is_left_for_as_long_as_it_asks(ours: Any, reply: Any, remote: Any) -> None:
    busy = ours(lambda r: reply({}, status=503, headers={"Retry-After": "20"}) if r.path == "/retrieve" else None)
    other = ours()
    retriever = remote(busy.url, other.url)
    for query in "abcdef":
        retriever.search([query], 1)
    assert len(searches(busy)) == 1
    assert len(searches(other)) == 6


def test_a_large_search_is_shared_between_servers(ours: Any, remote: Any) -> None:
    servers = [ours(), ours()]
    queries = [f"q{i}" for i in range(160)]
    assert ids(remote(*(s.url for s in servers)).search(queries, 1)) == [[f"{q}-0"] for q in queries]
    assert [len(r.json["queries"]) for s in servers for r in searches(s)] == [80, 80]


def test_small_searches_go_to_the_least_busy_server(ours: Any, reply: Any, remote: Any) -> None:
    slow = ours(lambda r: time.sleep(0.4) if r.path == "/retrieve" else None)
    quick = ours()
    retriever = remote(slow.url, quick.url)
    retriever.wait_until_ready(5)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: retriever.search([f"q{i}"], 1), range(20)))
    assert len(searches(quick)) > 12


def test_all_servers_failing_is_an_error_that_names_them(dead_url: Any, ours: Any, reply: Any, remote: Any) -> None:
    busy = ours(lambda r: reply({"detail": "queue full"}, status=503) if r.path == "/retrieve" else None)
    with pytest.raises(RetrieverError) as raised:
        remote(dead_url, busy.url, retry=replace(SHORT, retries=1)).search(["q"], 1)
    assert "queue full" in str(raised.value)


def test_servers_of_different_indexes_are_refused(ours: Any, remote: Any) -> None:
    retriever = remote(ours().url, ours(health=HEALTH | {"version": "v2"}).url)
    with pytest.raises(RetrieverError, match="serves another index"):
        retriever.wait_until_ready(5)


def test_a_server_that_comes_back_with_another_index_is_refused(ours: Any, remote: Any) -> None:
    first = ours()
    retriever = remote(first.url, retry=NO_RETRY)
    retriever.search(["q"], 1)
    first.stop()
    with pytest.raises(RetrieverError):
        retriever.search(["q"], 1)
    ours(health=HEALTH | {"version": "v2"}, port=first.port)
    with pytest.raises(RetrieverError, match=r"another index.*v2.*v1"):
        retriever.search(["q"], 1)


def test_a_server_that_came_back_with_another_index_while_nobody_searched_is_refused(
    ours: Any, remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ours()
    retriever = remote(first.url)
    retriever.search(["q"], 1)
    first.stop()
    ours(health=HEALTH | {"version": "v2"}, port=first.port)
    monkeypatch.setattr("calibadv.retrieval.client.retriever.TRUSTED_S", 0.0)
    with pytest.raises(RetrieverError, match=r"another index.*v2.*v1"):
        retriever.search(["q"], 1)


def test_a_server_that_comes_back_is_searched_again(ours: Any, remote: Any) -> None:
    first = ours()
    retriever = remote(first.url, retry=replace(SHORT, retries=60))
    retriever.search(["q"], 1)
    first.stop()
    threading.Timer(0.1, lambda: ours(port=first.port)).start()
    assert ids(retriever.search(["again"], 1)) == [["again-0"]]


@pytest.mark.parametrize(
    ("answer", "is_transient", "retry_after_s"),
    [
        ({"status": 503, "headers": {"Retry-After": "7"}}, True, 7.0),
        ({"status": 429}, True, None),
        ({"drop": True}, True, None),
        ({"status": 500}, None, None),
        ({"status": 422}, False, None),
        ({"status": 401}, False, None),
    ],
)
def test_a_failure_says_whether_it_may_pass(
    ours: Any, reply: Any, remote: Any, answer: Any, is_transient: Any, retry_after_s: Any
) -> None:
    server = ours(lambda r: reply({}, **answer) if r.path == "/retrieve" else None)
    with pytest.raises(RetrieverError) as raised:
        remote(server.url, retry=NO_RETRY).search(["q"], 1)
    assert (raised.value.is_transient, raised.value.retry_after_s) == (is_transient, retry_after_s)
    assert len(searches(server)) == 1


# Before a run.


def test_waiting_shows_the_progress_of_a_loading_server(
    ours: Any, reply: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("calibadv.retrieval.client.retriever._POLL_S", 0.01)
    loading = [reply({"status": "loading", "stage": "opening the index", "seconds": 1.5}, status=503)] * 3
    server = ours(lambda r: loading.pop() if r.path == "/health" and loading else None)
    with caplog.at_level(logging.INFO):
        remote(server.url).wait_until_ready(5)
    state = f"{server.url} is loading: opening the index, 1.5 s so far"
    assert caplog.messages.count(f"waiting for the retriever, 5 s more at most: {state}") == 1
    assert len(server.sent("/health")) == 4


def test_waiting_ends_with_the_address_and_what_was_said_last(
    dead_url: Any, ours: Any, reply: Any, remote: Any
) -> None:
    with pytest.raises(RetrieverError, match=rf"{dead_url} was not ready after 0 s: .*the connection failed"):
        remote(dead_url).wait_until_ready(0)
    slow = ours(lambda r: reply({"status": "loading", "stage": "reading vectors", "seconds": 9}, status=503))
    with pytest.raises(RetrieverError, match=r"is loading: reading vectors, 9 s so far.*retriever serve INDEX"):
        remote(slow.url).wait_until_ready(0)


def test_waiting_ends_at_once_when_the_server_failed_to_load(ours: Any, reply: Any, remote: Any) -> None:
    server = ours(lambda r: reply({"status": "failed", "detail": "no manifest.json"}, status=503))
    with pytest.raises(RetrieverError, match=r"could not load its index: no manifest\.json"):
        remote(server.url).wait_until_ready(60)


def test_waiting_ends_at_once_when_the_token_is_wrong(ours: Any, reply: Any, remote: Any) -> None:
    def before(request: Any) -> Any:
        if request.path == "/health":
            return reply({"status": "ready"})
        return reply({"detail": "send the header"}, status=401)

    with pytest.raises(RetrieverError, match=f"answered 401.*set {TOKEN_VARIABLE}"):
        remote(ours(before).url).wait_until_ready(60)


def test_the_token_comes_from_the_environment_and_shows_up_nowhere(
    ours: Any, reply: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    server = ours(failing(reply, reply({}, status=503), reply({"detail": "no"}, status=400)))
    retriever = remote(server.url)
    with caplog.at_level(logging.DEBUG), pytest.raises(RetrieverError) as raised:
        retriever.search(["q"], 1)
    assert searches(server)[0].headers["authorization"] == "Bearer s3cret"
    shown = caplog.text + str(raised.value) + repr(retriever) + str(vars(retriever)) + str(retriever.manifest())
    assert "s3cret" not in shown


def test_a_server_that_repeats_the_token_does_not_make_it_known(
    ours: Any, reply: Any, remote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = ours(failing(reply, reply({"detail": "s3cret?"}, status=503), reply({"detail": "no s3cret"}, status=401)))
    with pytest.raises(RetrieverError, match=r"answered 401: no \*\*\*") as raised:
        remote(server.url, token="s3cret").search(["q"], 1)
    assert "s3cret" not in caplog.text + str(raised.value)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "deflate"])
def test_an_encoding_that_was_not_asked_for_is_refused(ours: Any, reply: Any, remote: Any, encoding: Any) -> None:
    body = gzip.compress(gzip.compress(b"0" * 1000))
    server = ours(failing(reply, reply(body=body, headers={"Content-Encoding": encoding})))
    with pytest.raises(RetrieverError, match="which was not asked for"):
        remote(server.url).search(["q"], 1)


def test_a_token_sent_without_encryption_to_another_machine_is_warned_about(
    remote: Any, caplog: pytest.LogCaptureFixture
) -> None:
    remote("http://search.example:8000", token="s3cret")
    assert "unencrypted" in caplog.text
    caplog.clear()
    remote("http://localhost:8000", "https://search.example", token="s3cret")
    assert "unencrypted" not in caplog.text


def test_version_and_manifest_are_those_of_the_served_index(ours: Any, remote: Any) -> None:
    server = ours()
    retriever = remote(server.url)
    assert retriever.version == "v1"
    assert retriever.manifest() == {
        "method": "remote",
        "urls": [server.url],
        "dialect": "search-r1",
        "version": "v1",
        "index": {"method": "bm25", "corpus_sha256": "c0ffee"},
        "reranker": None,
    }


# Connections and settings.


def test_many_threads_share_a_few_connections(ours: Any, remote: Any) -> None:
    server = ours()
    retriever = remote(server.url, config=RemoteClientConfig(max_connections=4))
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda i: ids(retriever.search([f"q{i}"], 1)), range(100)))
    assert found == [[[f"q{i}-0"]] for i in range(100)]
    assert len(server.connections) <= 4


def test_waiting_for_a_connection_is_no_part_of_the_time_of_a_request(ours: Any, reply: Any, remote: Any) -> None:
    def slow(request: Any) -> None:
        time.sleep(0.1 if request.path == "/retrieve" else 0)

    retriever = remote(ours(slow).url, retry=NO_RETRY, timeout_s=0.8, config=RemoteClientConfig(max_connections=1))
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda i: ids(retriever.search([f"q{i}"], 1)), range(12)))
    assert found == [[[f"q{i}-0"]] for i in range(12)]


def test_a_forked_process_searches_through_connections_of_its_own(ours: Any, remote: Any, fork: Any) -> None:
    retriever = remote(ours().url)
    queries = [f"q{i}" for i in range(250)]

    def search(name: Any) -> None:
        for i in range(10):
            assert ids(retriever.search([f"{name}{i}"], 1)) == [[f"{name}{i}-0"]]
        assert ids(retriever.search(queries, 1)) == [[f"{query}-0"] for query in queries]

    for _ in range(3):
        retriever.search(queries, 1)  # all threads and connections are there
    forked = [fork(lambda name=name: search(name)) for name in "ab"]
    search("parent")
    assert [os.waitpid(process, 0)[1] for process in forked] == [0, 0]


def test_closing_ends_a_search_that_waits(ours: Any, reply: Any, remote: Any) -> None:
    busy = ours(lambda request: reply({}, status=503) if request.path == "/retrieve" else None)
    retriever = remote(busy.url, retry=Retry(first_wait_s=30.0))
    threading.Timer(0.3, retriever.close).start()
    start = time.monotonic()
    with pytest.raises(RetrieverError, match="closed while it searched"):
        retriever.search(["q"], 1)
    assert time.monotonic() - start < 10
    for queries in (["q"], [f"q{i}" for i in range(300)]):
        with pytest.raises(RetrieverError, match="is closed"):
            retriever.search(queries, 1)


def test_proxy_settings_of_the_environment_are_not_used(
    ours: Any, remote: Any, monkeypatch: pytest.MonkeyPatch, dead_url: Any
) -> None:
    monkeypatch.setenv("HTTP_PROXY", dead_url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ids(remote(ours().url).search(["q"], 1)) == [["q-0"]]


def test_it_is_a_context_manager(ours: Any) -> None:
    with RemoteRetriever(ours().url) as retriever:
        retriever.search(["q"], 1)
    with pytest.raises(RuntimeError):
        retriever.search(["q"], 1)


@pytest.mark.parametrize(
    ("urls", "settings", "message"),
    [
        ([], {}, "names no server"),
        (["localhost:8000"], {}, "must be like http://"),
        (["ftp://x"], {}, "must be like http://"),
        (["http://"], {}, "must be like http://"),
        (["http://x:99999"], {}, "must be like http://"),
        (["http://me:s3cret@x"], {}, "without a user"),
        (["http://x?key=s3cret"], {}, "without a user"),
        (["http://x"], {"dialect": "skyrl"}, "dialect"),
        (["http://x"], {"timeout_s": 0}, "timeout_s"),
        (["http://x"], {"token": "two words"}, "printable ASCII"),
    ],
)
def test_wrong_settings_are_named(urls: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        RemoteRetriever(urls, **settings)
    assert "s3cret" not in str(raised.value)


def test_wrong_options_and_arguments_are_named(remote: Any) -> None:
    for name in ("connect_timeout_s", "max_connections", "max_queries", "candidates"):
        with pytest.raises(ConfigError, match=name):
            RemoteClientConfig(**{name: 0})
    with pytest.raises(ConfigError, match="k must be >= 1"):
        remote("http://127.0.0.1:1").search(["q"], 0)
    with pytest.raises(ConfigError, match="must be a list of strings"):
        remote("http://127.0.0.1:1").search("q", 1)
