"""The server as a training run treats it: many clients, rude ones, two restarts; nothing is lost, memory stays flat.

CALIBADV_SOAK_SECONDS says how long (20 s when not set; 300 is the full test).
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from calibadv.io.retry import Retry
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.bm25.build import build_bm25
from calibadv.retrieval.client.retriever import RemoteRetriever
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.trajectory import Document

SECONDS = float(os.environ.get("CALIBADV_SOAK_SECONDS", "20"))
PATIENT, CHECKING, RUDE = 40, 16, 8
CACHE_MB = 4
SETTLED_SHARE = 0.4
"""Memory is compared from this part of the time on in which a server answers: before, its cache fills."""
GROWTH_MB = 25


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("soak")
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in "bdgklmnprst"]
    documents = [Document(id=str(n), title=f"title {n}", text=" ".join(rng.choices(words, k=60))) for n in range(2_000)]
    Corpus.from_documents(documents).write(folder / "documents.jsonl")
    import_corpus([folder / "documents.jsonl"], out=folder / "corpus")
    build_bm25(Corpus.open(folder / "corpus"), out=folder / "corpus" / "bm25")
    return folder / "corpus" / "bm25", words


class Server:
    """The command in a process of its own, always on the same port."""

    def __init__(self, index: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.index = index
        self.lives: list[list[float]] = []  # resident MB of each process, 30 samples each
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--cache-mb", str(CACHE_MB), "--max-queue", "4096", "--timeout", "10"]
        command = [sys.executable, "-m", "calibadv", "retriever", "serve", str(self.index), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.lives.append([])

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def answer_for(self, seconds: float) -> None:
        """Sample its memory while it answers: one that still loads its libraries grows."""
        with httpx2.Client(base_url=self.url, trust_env=False, timeout=30) as client:
            while not self.answers(client):
                time.sleep(0.25)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self.sample()
                time.sleep(seconds / 30)

    def answers(self, client: httpx2.Client) -> bool:
        try:
            return client.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def sample(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.lives[-1].append(next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / 1024)


class Crowd:
    """The clients, and what happened to them."""

    def __init__(self, server: Server, words: list[str], reference: BM25Retriever) -> None:
        self.server = server
        self.words = words
        self.reference = reference
        self.over = threading.Event()
        self.right = self.retried = self.hung_up = 0
        self.wrong: list[str] = []
        self.remotes = [
            RemoteRetriever(server.url, retry=Retry(retries=40, first_wait_s=0.1, longest_wait_s=1.0)) for _ in range(5)
        ]

    def wait_until_ready(self) -> None:
        for remote in self.remotes:
            remote.wait_until_ready(60)

    def queries(self, rng: random.Random) -> list[str]:
        return [" ".join(rng.choices(self.words[:150], k=2)) for _ in range(5)]

    def ids(self, queries: list[str], k: int) -> list[list[str]]:
        return [[hit.document.id for hit in hits] for hits in self.reference.search(queries, k)]

    def be(self, character: Any, number: int) -> threading.Thread:
        def live() -> None:
            rng = random.Random(f"{character.__name__} {number}")
            try:
                while not self.over.is_set():
                    character(rng, number)
                    time.sleep(rng.uniform(0, 0.2))
            except Exception as error:
                self.wrong.append(f"{character.__name__}: {error!r}")

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        return thread

    def patient(self, rng: random.Random, number: int) -> None:
        """Our client: every search is answered in the end, and rightly."""
        queries, k = self.queries(rng), rng.choice([1, 3, 20])
        found = self.remotes[number % len(self.remotes)].search(queries, k)
        if [[hit.document.id for hit in hits] for hits in found] != self.ids(queries, k):
            self.wrong.append(f"patient: {queries}")
        self.right += 1

    def checking(self, rng: random.Random, number: int) -> None:
        """Another client without retries: an answer is right, or says try again, or the connection breaks."""
        queries = self.queries(rng)
        body = {"queries": queries, "topk_retrieval": 3, "topk_rerank": 3}
        try:
            response = httpx2.post(f"{self.server.url}/retrieve", json=body, timeout=60, trust_env=False)
        except httpx2.TransportError:
            self.retried += 1
            time.sleep(0.2)
            return
        if response.status_code == 503 and int(response.headers["retry-after"]) > 0:
            self.retried += 1
            return
        titles = [[text.split('"')[1].split()[1] for text in texts] for texts in response.json()["result"]]
        if response.status_code != 200 or titles != self.ids(queries, 3):
            self.wrong.append(f"checking: {response.status_code} {response.text[:200]}")
        self.right += 1

    def rude(self, rng: random.Random, number: int) -> None:
        """Sends a request, or a part of one, and hangs up."""
        body = b'{"queries": ["%b"]}' % " ".join(rng.choices(self.words, k=200)).encode()
        request = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port), 5) as connection:
            connection.sendall(request[: rng.choice([10, 100, len(request), len(request)])])
            time.sleep(rng.choice([0, 0, 0.01]))
            self.hung_up += 1


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_nothing_is_lost_and_memory_stays_flat_under_clients_that_hang_up_and_restarts(index: Any) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    folder, words = index
    reference = BM25Retriever.open(folder)
    server = Server(folder)
    crowd = Crowd(server, words, reference)
    try:
        crowd.wait_until_ready()
        threads = [
            crowd.be(character, number)
            for character, count in ((crowd.patient, PATIENT), (crowd.checking, CHECKING), (crowd.rude, RUDE))
            for number in range(count)
        ]
        for ended_by in (signal.SIGTERM, signal.SIGKILL, None):
            server.answer_for(SECONDS / 3)
            if ended_by is not None:
                assert server.stop(ended_by) == (0 if ended_by == signal.SIGTERM else -ended_by)
                server.start()
        crowd.over.set()
        for thread in threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in threads)
        with httpx2.Client(base_url=server.url, trust_env=False) as client:
            metrics = client.get("/metrics").text
        assert server.stop(signal.SIGTERM) == 0
    finally:
        crowd.over.set()
        server.process.kill()
        server.process.wait()
        for remote in crowd.remotes:
            remote.close()
    assert crowd.wrong == []
    assert crowd.right > 20 * SECONDS / 2
    assert crowd.hung_up > SECONDS
    assert "calibadv_retriever_queue_depth 0.0" in metrics
    assert len(server.lives) == 3
    for life in server.lives:
        assert len(life) > 10
        settled = life[int(len(life) * SETTLED_SHARE) :]
        assert settled[-1] - settled[0] < GROWTH_MB, f"resident memory grew: {[round(mb) for mb in life]}"
