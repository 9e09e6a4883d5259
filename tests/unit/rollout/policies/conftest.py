"""A server on this machine that answers as a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import RolloutConfig, RolloutResult, rollout
from calibadv.trajectory import Document, Question

Answer = Any
"""JSON to answer with, or (status, JSON or text[, headers])."""


class FakeServer:
    """``answers`` maps a path to a function of the request's JSON."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], Answer]] = {}
        self.asked: list[tuple[str, Any, dict[str, str]]] = []  # (path, body, headers)
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: Any) -> None:
                status, content, headers = fake.answer(self.path, body, dict(self.headers.items()))
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def answer(self, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        with self._lock:
            self.asked.append((path, body, headers))
            if path not in self.answers:
                return 404, {"error": {"message": f"no {path} here"}}, {}
            answer = self.answers[path](body)
        if isinstance(answer, tuple):
            return answer[0], answer[1], answer[2] if len(answer) > 2 else {}
        return 200, answer, {}

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body, _ in self.asked if asked == path]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def closed_later() -> Iterator[Callable[[Any], Any]]:
    """``closed_later(policy)`` is closed after the test."""
    opened = []

    def take(policy: Any) -> Any:
        opened.append(policy)
        return policy

    yield take
    for policy in opened:
        policy.close()


@pytest.fixture
def play_with() -> Callable[..., RolloutResult]:
    """``play_with(policy, tokenizer, count=..., **config)``: a rollout over a few questions and documents."""
    documents = [Document(id=f"d{i}", title=f"Title {i}", text=f"fact number {i}") for i in range(5)]

    def run(policy: Any, tokenizer: Any, *, count: int = 2, **config: Any) -> RolloutResult:
        questions = [Question(id=f"q{i}", text=f"who is number {i}?", golden_answers=("x",)) for i in range(count)]
        settings: dict[str, Any] = {"prompt": "question", "top_k": 1} | config
        return rollout(
            questions, num_rollouts=1, policy=policy, retriever=ListRetriever(documents), tokenizer=tokenizer, seed=0,
            config=RolloutConfig(**settings),
        )  # fmt: skip

    return run
