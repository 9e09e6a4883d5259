"""What every server of this package needs: a bound socket, request bodies within limits, tokens, graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp

from calibadv.errors import ConfigError
from calibadv.io.signals import handled

logger = logging.getLogger(__name__)


BACKLOG = 2_048
"""Connections that may wait to be accepted."""
CLIENT_GONE = 499
"""Status in the metrics of a request whose client went away; nobody receives it."""


class ServerMetrics:
    """Prometheus figures of a server, in a registry of their own; safe in any thread."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    def write(self) -> bytes:
        """The figures in Prometheus's text form."""
        return generate_latest(self.registry)


class RequestRefused(Exception):
    """A request that cannot be answered, with its HTTP status; the message goes to the client."""

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class GracefulServer(uvicorn.Server):
    """Shuts down gracefully on SIGTERM and SIGINT: uvicorn itself would raise the signal again when it is done.

    Requests in flight then have ``grace_s`` to end; a silent connection is closed after ``keep_alive_s``.
    """

    def __init__(self, app: ASGIApp, *, grace_s: float, keep_alive_s: int = 5) -> None:
        grace = max(1, round(grace_s))
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                timeout_keep_alive=keep_alive_s,
                timeout_graceful_shutdown=grace,
            )
        )

    def serve_on(self, listener: socket.socket, *, host: str, on_listening: Callable[[str], None]) -> None:
        """Serve until a signal comes, then close the listener; ``on_listening`` gets the URL."""
        with contextlib.closing(listener), self.capture_signals():  # before asyncio's handler, which may lose a signal
            listener.listen(BACKLOG)  # who connects from now on waits; uvicorn would refuse until it is up
            on_listening(url_of(listener, host=host))
            self.run(sockets=[listener])

    def end(self) -> None:
        """Shut down as after a signal."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with handled(self.handle_exit, signal.SIGINT, signal.SIGTERM):
            yield


def listen(host: str, port: int, *, token: str | None, token_variable: str) -> socket.socket:
    """A bound socket, so that a port in use is an error of ours and the port that 0 stands for is known.

    Warns when others than this machine may ask and no token is set.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            on_error.pop_all()
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another") from error
    if token is None and not str(address[0]).startswith(("127.", "::1")):
        logger.warning("listening on %s without a token: anyone can use it; set %s", host, token_variable)
    return listener


def url_of(listener: socket.socket, *, host: str) -> str:
    """Where clients find the server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def has_token(request: Request, token: str) -> bool:
    """Whether the request carries the token of the server, compared in constant time."""
    sent = request.headers.get("authorization", "").encode("latin-1", "replace")
    return hmac.compare_digest(sent, f"Bearer {token}".encode())


async def read_body(request: Request, *, max_bytes: int, timeout_s: float, setting: str) -> bytes:
    """The body, refused when it is larger than ``max_bytes`` or slower than ``timeout_s``, the value of ``setting``."""
    too_large = RequestRefused(
        f"the body has more than {max_bytes:,} bytes (max_body_bytes); send a smaller one", status=413
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        message = f"the body did not arrive within {timeout_s:g} s ({setting}); send it again"
        raise RequestRefused(message, status=408) from None
    except ClientDisconnect:
        raise RequestRefused("the client has closed its connection", status=CLIENT_GONE) from None
    return b"".join(chunks)
