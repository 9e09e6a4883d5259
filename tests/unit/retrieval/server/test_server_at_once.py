"""Searches that are done in the event loop, because a batch and a thread would only cost them time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("tantivy")

from calibadv.retrieval import BM25Retriever, ListRetriever
from calibadv.retrieval.server import Backend, ServerConfig
from calibadv.retrieval.server.backend import LONG
from calibadv.trajectory import Document

WORDS = [f"word{number}" for number in range(60)]
DOCUMENTS = [Document(id=str(i), title=f"Title {i}", text=" ".join(WORDS[i : i + 3])) for i in range(58)]
WORKER = "calibadv-retriever"


class Watched(BM25Retriever):
    """Notes the thread of each search; may fail or be slow."""

    seconds = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.threads_used: list[Any] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def search(self, queries: Any, k: Any) -> Any:
        self.threads_used.append(threading.current_thread().name)
        if not self.go_on.is_set() and len(queries[0]) >= LONG:
            self.begun.set()
            assert self.go_on.wait(30)
        if "broken" in queries:
            raise RuntimeError("told to fail")
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return super().search(queries, k)


@pytest.fixture
def retriever() -> Any:
    return Watched.from_documents(DOCUMENTS)


def test_a_short_search_of_words_is_done_where_it_arrives_once_its_cost_is_known(serving: Any, retriever: Any) -> None:
    with serving(Backend(retriever)) as running:
        for word in WORDS[:5]:
            running.retrieve(queries=[word], topk=2)
        first, *others = retriever.threads_used[1:]  # the warm-up loads the index
        assert first == WORKER
        assert others
        assert WORKER not in others
        assert running.metric("batch_queries_count", kind="search") == 5
        assert running.metric("queue_depth") == running.metric("unfinished_queries") == 0


def test_its_answers_are_those_of_the_index(serving: Any, retriever: Any) -> None:
    asked = [[f"{WORDS[i]} {WORDS[(7 * i) % 60]}", WORDS[i], "zebra", WORDS[i]] for i in range(60)]
    with serving(Backend(retriever)) as running, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda queries: running.retrieve(queries=queries, topk=3), asked))
    for queries, answer in zip(asked, answers, strict=True):
        found = [[hit.document.id for hit in hits] for hits in retriever.search(queries, 3)]
        assert [[hit["id"] for hit in hits] for hits in answer] == found


@pytest.mark.parametrize("query", [f"{WORDS[9]} " * LONG, "x" * LONG])
def test_a_long_query_goes_to_the_worker(serving: Any, retriever: Any, query: str) -> None:
    with serving(Backend(retriever), config=ServerConfig(max_query_chars=10 * LONG)) as running:
        running.retrieve(queries=[WORDS[0]])
        running.retrieve(queries=[WORDS[1], query])
        assert retriever.threads_used[-1] == WORKER


def test_searches_that_turn_out_slow_go_back_to_the_worker(serving: Any, retriever: Any) -> None:
    with serving(Backend(retriever)) as running:
        running.retrieve(queries=[WORDS[0]])
        retriever.seconds = 0.02
        for word in WORDS[1:5]:
            running.retrieve(queries=[word])
        assert retriever.threads_used[-1] == WORKER


def test_a_short_search_does_not_wait_for_a_worker_that_is_busy(serving: Any, retriever: Any) -> None:
    with serving(Backend(retriever)) as running, ThreadPoolExecutor(1) as pool:
        running.retrieve(queries=[WORDS[0]])
        retriever.go_on.clear()
        long = pool.submit(running.retrieve, queries=["x" * LONG])
        assert retriever.begun.wait(10)
        assert len(running.retrieve(queries=[WORDS[1]])) == 1
        assert not long.done()
        retriever.go_on.set()
        assert long.result() == [[]]


def test_a_corpus_whose_queries_share_threads_is_left_to_the_worker(
    serving: Any, retriever: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibadv.retrieval.bm25.retriever._WORTH_THREADS", len(DOCUMENTS))
    retriever.threads = 2
    with serving(Backend(retriever)) as running:
        for word in WORDS[:3]:
            running.retrieve(queries=[word])
        assert set(retriever.threads_used[1:]) == {WORKER}


def test_many_queries_go_to_the_worker(serving: Any, retriever: Any) -> None:
    with serving(Backend(retriever)) as running:
        running.retrieve(queries=[WORDS[0]])
        running.retrieve(queries=[f"{a} {b}" for a in WORDS for b in WORDS])
        assert set(retriever.threads_used[2:]) == {WORKER}


def test_one_that_fails_there_fails_its_own_request_only(serving: Any, retriever: Any) -> None:
    with serving(Backend(retriever)) as running:
        running.retrieve(queries=[WORDS[0]])
        failed = running.post("/retrieve", queries=[WORDS[1], "broken"])
        assert failed.status_code == 500
        assert failed.json()["detail"] == "the search failed: told to fail"
        assert retriever.threads_used[-1] != WORKER
        assert running.retrieve(queries=[WORDS[1]])[0][0]["id"] == retriever.search([WORDS[1]], 1)[0][0].document.id


def test_work_that_gains_from_batches_is_left_to_the_worker(serving: Any) -> None:
    threads_used = []

    def source(query: Any) -> Any:
        threads_used.append(threading.current_thread().name)
        return DOCUMENTS

    with serving(Backend(ListRetriever(source))) as running:
        for word in WORDS[:5]:
            running.retrieve(queries=[word])
    assert set(threads_used[1:]) == {WORKER}
