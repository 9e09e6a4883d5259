"""Serves until SIGTERM or SIGINT, then answers what was accepted, and ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn

from calibadv.errors import ConfigError
from calibadv.retrieval.server.app import create_app
from calibadv.retrieval.server.backend import Load
from calibadv.retrieval.server.service import RetrievalService
from calibadv.retrieval.server.settings import TOKEN_VARIABLE, ServerConfig

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.001
"""The event loop waits at most about this long for the worker's Python code to let it run."""
BACKLOG = 2_048


def serve(load: Load, *, config: ServerConfig, on_listening: Callable[[str], None] = lambda url: None) -> None:
    """Listen at once, load the index in the background, and serve it until a signal comes.

    ``on_listening`` gets the URL. Raises what ``load`` raised when the index cannot be loaded.
    """
    service = RetrievalService(load, config=config)
    listener = _listen(config)
    server = _Server(
        uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=max(1, round(config.shutdown_grace_s)),
        )
    )
    service.on_failure = server.end
    host = f"[{config.host}]" if ":" in config.host else config.host
    on_listening(f"http://{host}:{listener.getsockname()[1]}")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        server.run(sockets=[listener])
    finally:
        sys.setswitchinterval(interval)
        listener.close()
    if service.error is not None:
        raise service.error


class _Server(uvicorn.Server):
    """A server for which SIGTERM is an ordinary end: uvicorn would raise the signal again when it is done."""

    def end(self) -> None:
        """Stop as after a signal."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(config: ServerConfig) -> socket.socket:
    """A bound socket, so that a port in use is an error of ours and the port that 0 stands for is known."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            on_error.pop_all()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}; choose another"
        ) from error
    if config.token is None and not str(address[0]).startswith(("127.", "::1")):
        logger.warning(
            "listening on %s without a token: whoever reaches it may search; set %s", config.host, TOKEN_VARIABLE
        )
    return listener
