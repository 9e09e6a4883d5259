"""Real servers on loopback ports: uvicorn in a thread of the test process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

import httpx2
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from calibadv.retrieval import ListRetriever
from calibadv.retrieval.server import Backend, RetrievalService, ServerConfig, create_app
from calibadv.trajectory import Document

ADA = Document(id="ada", title="Ada Lovelace", text="wrote the first program")
BABBAGE = Document(id="babbage", title="Charles Babbage", text='designed the "engine" of brass; naïve ☃')
PLAIN = Document(id="x/7", title="", text="no title here")
DOCUMENTS = [ADA, BABBAGE, PLAIN]


class WordReranker:
    """Scores a document by how many of its words are in the query."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def score(self, pairs: Any) -> Any:
        self.calls.append(list(pairs))
        return [float(sum(word in query.split() for word in document.text.split())) for query, document in pairs]

    def manifest(self) -> Any:
        return {"model": "words"}


class Corpus(list[Document]):
    """What the server asks of a corpus."""

    def row_of(self, document_id: Any) -> Any:
        return next((row for row, document in enumerate(self) if document.id == document_id), None)


class Gate:
    """A retriever that waits until it is told to go on."""

    version = "gate-1"
    corpus = Corpus(DOCUMENTS)

    def __init__(self) -> None:
        self.inner = ListRetriever(DOCUMENTS)
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def search(self, queries: Any, k: Any) -> Any:
        if list(queries) != ["warm-up"]:
            self.entered.release()
            assert self.open.wait(30)
        return self.inner.search(queries, k)

    @property
    def calls(self) -> Any:
        return [call for call in self.inner.calls if call != ("warm-up",)]


class Running:
    """A server and a client of it."""

    def __init__(self, url: str, service: RetrievalService, client: httpx2.Client, server: uvicorn.Server) -> None:
        self.url = url
        self.service = service
        self.client = client
        self.server = server
        self.retriever: Any = None
        """What is searched, where a fixture says so."""

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=body)

    def retrieve(self, **body: Any) -> Any:
        response = self.post("/retrieve", **body)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    def metric(self, name: str, **labels: str) -> float:
        name = f"calibadv_retriever_{name}"
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items()):
                    return sample.value
        return 0.0


@contextmanager
def run_server(load: Any, *, config: ServerConfig | None = None, wait: bool = True) -> Iterator[Running]:
    """Serve what ``load`` gives (a function of the report, or a backend) until the block ends."""
    service = RetrievalService(
        load if callable(load) else lambda report: load, config=config or ServerConfig(batch_window_s=0.0)
    )
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), port=0, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        if wait:
            wait_until(lambda: client.get("/health").status_code == 200)
        try:
            yield Running(url, service, client, server)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def serving() -> Any:
    """``with serving(backend, config=...) as running``."""
    return run_server


@pytest.fixture(scope="session")
def until() -> Any:
    return wait_until


@pytest.fixture
def gate() -> Any:
    return Gate()


@pytest.fixture
def make_backend() -> Any:
    """``make_backend(retriever=None, reranker=None)``; the retriever finds every document of `DOCUMENTS`, in order."""

    def make(retriever: Any = None, *, rerank: Any = False) -> Any:
        if retriever is None:
            retriever = ListRetriever(DOCUMENTS)
            retriever.corpus = Corpus(DOCUMENTS)
        return Backend(retriever, WordReranker() if rerank else None)

    return make


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """A server without a re-ranker."""
    retriever = ListRetriever(DOCUMENTS)
    retriever.corpus = Corpus(DOCUMENTS)  # type: ignore[attr-defined]
    with run_server(Backend(retriever)) as running:
        running.retriever = retriever
        yield running


@pytest.fixture(scope="module")
def reranking() -> Iterator[Any]:
    """A server with a re-ranker."""
    retriever = ListRetriever(DOCUMENTS)
    retriever.corpus = Corpus(DOCUMENTS)  # type: ignore[attr-defined]
    with run_server(Backend(retriever, WordReranker())) as running:
        yield running
