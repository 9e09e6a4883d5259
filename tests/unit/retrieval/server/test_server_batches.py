"""How the server merges, shares, bounds and drops work; every test drives a real server over HTTP."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from calibadv.retrieval import ListRetriever
from calibadv.retrieval.server import Backend, ServerConfig
from calibadv.trajectory import Document

DOCUMENTS = [Document(id=str(i), title="", text=f"text {i}") for i in range(5)]


@pytest.fixture
def pool() -> Iterator[Any]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


def ask(running: Any, *queries: Any, topk: Any = 1) -> Any:
    return running.post("/retrieve", queries=list(queries), topk=topk)


def test_queries_of_several_connections_share_a_batch(serving: Any, gate: Any, pool: Any, until: Any) -> None:
    with serving(Backend(gate)) as running:
        first = pool.submit(ask, running, "first")
        assert gate.entered.acquire(timeout=10)
        others = [pool.submit(ask, running, f"a{i}", f"b{i}") for i in range(8)]
        until(lambda: running.metric("queue_depth") == 16)
        gate.open.set()
        assert all(future.result().status_code == 200 for future in [first, *others])
        assert [len(call) for call in gate.calls] == [1, 16]
        assert running.metric("batch_queries_count", kind="search") == 2
        assert running.metric("queue_depth") == 0


def test_equal_queries_are_searched_once_inside_a_request_and_across(
    serving: Any, gate: Any, pool: Any, until: Any
) -> None:
    with serving(Backend(gate)) as running:
        first = pool.submit(ask, running, "same", "same")
        assert gate.entered.acquire(timeout=10)
        others = [pool.submit(ask, running, "same", f"new {i % 2}") for i in range(6)]  # "same" is being searched
        until(lambda: running.metric("joined_queries_total") == 1 + 6 + 4)
        gate.open.set()
        assert [len(future.result().json()["result"]) for future in [first, *others]] == [2] * 7
        assert sorted(query for call in gate.calls for query in call) == ["new 0", "new 1", "same"]


def test_an_answer_comes_from_the_cache_the_second_time_and_depends_on_k(serving: Any) -> None:
    retriever = ListRetriever(DOCUMENTS)
    with serving(Backend(retriever)) as running:
        assert ask(running, "q").content == ask(running, "q").content
        assert len(running.retrieve(queries=["q"], topk=2)[0]) == 2
        assert retriever.queries == ["warm-up", "q", "q"]
        assert running.metric("cache_hits_total") == 1
        assert running.metric("cache_misses_total") == 2
        assert running.metric("cache_entries") == 2


def test_a_full_queue_refuses_with_retry_after_and_recovers(serving: Any, gate: Any, pool: Any, until: Any) -> None:
    config = ServerConfig(max_queue=4, max_queries=4, batch_window_s=0.0)
    with serving(Backend(gate), config=config) as running:
        futures = [pool.submit(ask, running, "busy")]
        assert gate.entered.acquire(timeout=10)
        futures.append(pool.submit(ask, running, "1", "2", "3"))
        until(lambda: running.metric("queue_depth") == 3)
        refused = ask(running, "4", "5")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["detail"].startswith("3 queries are waiting and 2 more do not fit (max_queue 4)")
        futures.append(pool.submit(ask, running, "4", "3"))  # "3" is waiting already: one place is enough
        until(lambda: running.metric("queue_depth") == 4)
        gate.open.set()
        assert [future.result().status_code for future in futures] == [200, 200, 200]
        assert running.metric("requests_total", endpoint="retrieve", status="503") == 1


def test_a_request_past_its_deadline_is_given_up_and_its_queries_leave_the_queue(
    serving: Any, gate: Any, pool: Any
) -> None:
    config = ServerConfig(request_timeout_s=0.3, batch_window_s=0.0)
    with serving(Backend(gate), config=config) as running:
        busy = pool.submit(ask, running, "busy")
        assert gate.entered.acquire(timeout=10)
        late = ask(running, "late", "busy")
        assert late.status_code == 503
        assert late.headers["retry-after"] == "1"
        assert "no answer within 0.3 s (request_timeout_s)" in late.json()["detail"]
        assert busy.result().status_code == 503
        assert running.metric("queue_depth") == 0
        assert running.metric("dropped_queries_total") == 1
        gate.open.set()
        assert ask(running, "busy").status_code == 200
        assert gate.calls == [("busy",)]  # the answer came too late for its client, and was kept


def test_queries_of_a_client_that_went_away_are_not_searched(serving: Any, gate: Any, pool: Any, until: Any) -> None:
    with serving(Backend(gate)) as running:
        busy = pool.submit(ask, running, "busy")
        assert gate.entered.acquire(timeout=10)
        host, port = running.url.removeprefix("http://").split(":")
        body = b'{"queries": ["gone 1", "gone 2", "shared"]}'
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            until(lambda: running.metric("queue_depth") == 3)
            shared = pool.submit(running.post, "/retrieve", queries=["shared"])
            until(lambda: running.metric("joined_queries_total") == 1)
        until(lambda: running.metric("dropped_queries_total") == 2)
        gate.open.set()
        assert busy.result().status_code == shared.result().status_code == 200
        assert sorted(query for call in gate.calls for query in call) == ["busy", "shared"]
        assert running.metric("requests_total", endpoint="retrieve", status="499") == 1


def test_a_query_that_breaks_the_index_fails_its_own_request_only(
    serving: Any, gate: Any, pool: Any, until: Any
) -> None:
    gate.inner.fail_on = {"bad"}
    with serving(Backend(gate)) as running:
        busy = pool.submit(ask, running, "busy")
        assert gate.entered.acquire(timeout=10)
        good = [pool.submit(ask, running, f"good {i}") for i in range(5)]
        bad = pool.submit(ask, running, "good 0", "bad")
        until(lambda: running.metric("queue_depth") == 6)
        gate.open.set()
        assert all(future.result().status_code == 200 for future in [busy, *good])
        assert bad.result().status_code == 500
        assert bad.result().json()["detail"] == "the search failed: ListRetriever: told to fail on the query 'bad'"
        assert running.metric("requests_total", endpoint="retrieve", status="500") == 1
        assert ask(running, "good 0").status_code == 200


def test_a_broken_index_is_asked_a_few_times_only_and_may_heal(serving: Any, until: Any) -> None:
    retriever = ListRetriever(DOCUMENTS)
    with serving(Backend(retriever)) as running:
        retriever.down = True
        assert ask(running, *map(str, range(100))).status_code == 500
        assert len(retriever.calls) < 60
        retriever.down = False
        assert ask(running, "1").status_code == 200


def test_an_engine_that_panics_fails_the_request_and_not_the_worker(serving: Any) -> None:
    class Panic(BaseException):
        pass

    def source(query: Any) -> Any:
        if query == "bad":
            raise Panic("index out of bounds")
        return DOCUMENTS

    with serving(Backend(ListRetriever(source))) as running:
        assert ask(running, "bad").json() == {"detail": "the search failed: index out of bounds"}
        assert ask(running, "good").status_code == 200


def test_an_index_that_answers_too_little_is_an_error(serving: Any) -> None:
    class Short(ListRetriever):
        def search(self, queries: Any, k: Any) -> Any:
            return super().search(queries, k)[: 1 if list(queries) == ["warm-up"] else -1]

    with serving(Backend(Short(DOCUMENTS))) as running:
        response = ask(running, "q")
        assert response.status_code == 500
        assert "answered 0 of 1 queries" in response.json()["detail"]


def test_large_requests_are_cut_into_batches(serving: Any) -> None:
    retriever = ListRetriever(DOCUMENTS)
    with serving(Backend(retriever), config=ServerConfig(max_batch=20, batch_window_s=0.0)) as running:
        assert len(running.retrieve(queries=[str(i) for i in range(50)], topk=2)) == 50
        assert [len(call) for call in retriever.calls[1:]] == [20, 20, 10]


def test_slow_work_is_cut_into_smaller_batches(serving: Any) -> None:
    class Slow(ListRetriever):
        def search(self, queries: Any, k: Any) -> Any:
            threading.Event().wait(0.005 * len(queries))
            return super().search(queries, k)

    retriever = Slow(DOCUMENTS)
    with serving(Backend(retriever), config=ServerConfig(batch_target_s=0.1, batch_window_s=0.0)) as running:
        running.retrieve(queries=[str(i) for i in range(100)])
        assert all(len(call) <= 32 for call in retriever.calls)
        running.retrieve(queries=[f"again {i}" for i in range(100)])
        assert len(retriever.calls[-2]) in range(16, 22)


def test_an_idle_worker_waits_for_as_many_queries_as_came_before(serving: Any, pool: Any) -> None:
    retriever = ListRetriever(DOCUMENTS)
    with serving(Backend(retriever), config=ServerConfig(batch_window_s=5.0)) as running:
        ask(running, *"abcd")  # four queries: the next batch waits for four
        two = [pool.submit(ask, running, f"{i} a", f"{i} b") for i in range(2)]
        assert all(future.result().status_code == 200 for future in two)
        assert [len(call) for call in retriever.calls[1:]] == [4, 4]


def test_reranking_scores_the_pairs_of_a_batch_together_and_is_cached(
    serving: Any, make_backend: Any, pool: Any
) -> None:
    backend = make_backend(rerank=True)
    with serving(backend) as running:
        asked = {"queries": ["a", "b", "a"], "topk_retrieval": 2, "topk_rerank": 1}
        assert len(running.retrieve(**asked)) == 3
        before = len(backend.reranker.calls)
        assert len(backend.reranker.calls[-1]) == 4
        running.retrieve(**asked | {"topk_rerank": 2, "not_sort": True})
        assert len(backend.reranker.calls) == before


def test_results_are_those_of_a_search_of_ones_own(serving: Any, pool: Any) -> None:
    retriever = ListRetriever(lambda query: [DOCUMENTS[int(query) % 5], DOCUMENTS[int(query) * 7 % 5]])
    retriever.source = lambda query: [DOCUMENTS[len(query) % 5], DOCUMENTS[(len(query) + 1) % 5]]
    with serving(Backend(retriever), config=ServerConfig(cache_entries=10)) as running:
        queries = [["x" * ((i * j) % 40) for j in range(5)] for i in range(60)]
        answers = list(pool.map(lambda some: ask(running, *some).json()["result"], queries))
    for some, answer in zip(queries, answers, strict=True):
        assert [hits[0]["id"] for hits in answer] == [str(len(query) % 5) for query in some]
