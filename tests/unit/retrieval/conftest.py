"""What tests of several retrievers need: a forked process, and a server that answers, is busy, hangs, or dies."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest


@pytest.fixture
def fork() -> Any:
    """``fork(call)`` runs it in a forked process and returns its id; the exit status is 0 when nothing was raised."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")

    def start(call: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of what this is about
            process = os.fork()
        if process == 0:
            try:
                signal.alarm(20)
                call()
                os._exit(0)
            finally:
                os._exit(1)
        return process

    return start


@dataclass
class Request:
    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    json: Any


@dataclass
class Reply:
    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_at: int | None = None
    """Send this many bytes of the body, then drop the connection."""
    seconds: float = 0.0
    """Wait before answering."""
    drop: bool = False
    """Close the connection without a word."""


class LocalServer:
    """Calls ``answer(request)`` for every request and sends the `Reply`."""

    def __init__(self, answer: Callable[[Request], Reply], *, port: int = 0) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections: set[int] = set()
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                size = int(self.headers.get("content-length", 0))
                body = self.rfile.read(size)
                parts = urlsplit(self.path)
                request = Request(
                    self.command,
                    parts.path,
                    dict(parse_qsl(parts.query)),
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(body) if body else None,
                )
                with server.lock:
                    server.requests.append(request)
                    server.connections.add(self.client_address[1])
                self.reply(server.answer(request))

            do_POST = do_GET

            def reply(self, reply: Any) -> None:
                time.sleep(reply.seconds)
                self.close_connection = reply.drop or reply.cut_at is not None
                if reply.drop:
                    return
                body = json.dumps(reply.content).encode() if reply.body is None else reply.body
                try:
                    self.send_response(reply.status)
                    for name, value in ({"Content-Length": str(len(body))} | reply.headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body[: reply.cut_at])
                except OSError:  # the client has gone, as it should in the tests of time-outs
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._open: list[Any] = []

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def process_request(self, connection: Any, address: Any) -> None:
                server._open.append(connection)
                super().process_request(connection, address)

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def sent(self, path: Any) -> Any:
        return [request for request in self.requests if request.path == path]

    def stop(self) -> None:
        """End at once, as a killed process does: open connections break."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def serve() -> Iterator[Any]:
    """``serve(answer)`` starts a server; all are stopped after the test."""
    servers = []

    def start(answer: Any, *, port: Any = 0) -> Any:
        servers.append(LocalServer(answer, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def dead_url() -> Any:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def reply() -> Any:
    return Reply
