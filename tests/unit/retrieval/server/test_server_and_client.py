"""Our client on our server: the hits of a search over HTTP are those of the index itself."""

import logging
import threading
from typing import Any

import pytest

from calibadv.errors import RetrieverError
from calibadv.io.retry import Retry
from calibadv.retrieval import ListRetriever
from calibadv.retrieval.client.retriever import RemoteRetriever
from calibadv.retrieval.client.servers import TOKEN_VARIABLE
from calibadv.retrieval.server import Backend, ServerConfig

FAST = Retry(retries=50, first_wait_s=0.01, longest_wait_s=0.1)


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def shown(found: Any) -> Any:
    return [[(hit.document.id, hit.document.title, hit.document.text, hit.score) for hit in hits] for hits in found]


def test_hits_are_those_of_the_index(plain: Any) -> None:
    queries = ["who wrote", "", "naïve ☃", "half \ud800 pair", "who wrote"]
    with RemoteRetriever(plain.url) as remote:
        found = remote.search(queries, 3)
    assert shown(found) == shown(plain.retriever.search(queries, 3))


def test_the_calibadv_dialect_gives_the_same_passages_under_ids_of_its_own(plain: Any) -> None:
    with RemoteRetriever(plain.url, dialect="calibadv") as remote:
        (hits,) = remote.search(["q"], 2)
        again = remote.search(["q"], 2)[0]
    (direct,) = plain.retriever.search(["q"], 2)
    assert [(h.document.title, h.document.text) for h in hits] == [(d.document.title, d.document.text) for d in direct]
    assert [len(hit.document.id) for hit in hits] == [64, 64]
    assert [hit.document.id for hit in hits] == [hit.document.id for hit in again]


def test_a_re_ranking_server_gives_re_ranked_hits(reranking: Any) -> None:
    with RemoteRetriever(reranking.url) as remote:
        (hits,) = remote.search(["brass designed of"], 1)
        assert hits[0].document.id == "babbage"
        assert remote.manifest()["reranker"] == {"model": "words"}


def test_version_and_manifest_come_from_the_server(plain: Any) -> None:
    with RemoteRetriever(plain.url) as remote:
        remote.wait_until_ready(5)
        assert remote.version == plain.client.get("/health").json()["version"]
        assert remote.manifest()["index"] == plain.client.get("/health").json()["index"]


def test_limits_of_the_server_split_the_search(serving: Any, make_backend: Any) -> None:
    config = ServerConfig(max_queries=10, max_hits=30, batch_window_s=0.0)
    with serving(make_backend(), config=config) as running, RemoteRetriever(running.url) as remote:
        assert len(remote.search([f"q{i}" for i in range(95)], 4)) == 95
        assert running.metric("requests_total", endpoint="retrieve", status="200") == 14  # of 7 queries at most


def test_more_than_the_server_allows_is_refused_in_its_own_words(plain: Any) -> None:
    with RemoteRetriever(plain.url) as remote, pytest.raises(RetrieverError, match=r'422: "topk" must be between 1'):
        remote.search(["q"], 10**6)


def test_a_token_opens_a_server_that_asks_for_one(
    serving: Any, make_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(token="s3cret", batch_window_s=0.0)
    with serving(make_backend(), config=config) as running:
        with (
            RemoteRetriever(running.url) as stranger,
            pytest.raises(RetrieverError, match=f"answered 401.*set {TOKEN_VARIABLE}"),
        ):
            stranger.wait_until_ready(5)
        monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
        with RemoteRetriever(running.url) as remote:
            remote.wait_until_ready(5)
            assert len(remote.search(["q"], 2)[0]) == 2
            assert not remote.version.startswith("unversioned")


def test_waiting_sees_a_server_through_its_loading(
    serving: Any, make_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    def load(report: Any) -> Any:
        report("reading 21 million passages")
        assert go.wait(20)
        return make_backend()

    with serving(load, wait=False) as running, RemoteRetriever(running.url) as remote:
        threading.Timer(0.5, go.set).start()
        with caplog.at_level(logging.INFO):
            remote.wait_until_ready(20)
        assert "is loading: reading 21 million passages" in caplog.text
        assert len(remote.search(["q"], 1)[0]) == 1


def test_a_full_queue_is_waited_out(serving: Any, gate: Any, until: Any) -> None:
    config = ServerConfig(max_queries=1, max_queue=1, batch_window_s=0.0, cache_entries=0)
    with serving(Backend(gate), config=config) as running:
        with RemoteRetriever(running.url, retry=FAST) as remote:
            threads = [threading.Thread(target=remote.search, args=([f"q{i}"], 1)) for i in range(4)]
            for thread in threads:
                thread.start()
            until(lambda: running.metric("requests_total", endpoint="retrieve", status="503") > 0)
            gate.open.set()
            for thread in threads:
                thread.join(20)
        assert running.metric("requests_total", endpoint="retrieve", status="200") == 4


def test_a_failing_index_is_an_error_and_never_an_empty_result(serving: Any) -> None:
    retriever = ListRetriever([], fail_on=["bad"])
    with serving(Backend(retriever)) as running, RemoteRetriever(running.url) as remote:
        assert remote.search(["good"], 1) == [[]]
        with pytest.raises(RetrieverError, match="answered 500"):
            remote.search(["bad"], 1)
