"""What every server of this package needs: a socket bound before anything is loaded, and an end without drama."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from calibadv.errors import ConfigError

logger = logging.getLogger(__name__)


class EndingServer(uvicorn.Server):
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
        logger.warning("listening on %s without a token: whoever reaches it may ask; set %s", host, token_variable)
    return listener


def url_of(listener: socket.socket, *, host: str) -> str:
    """Where clients find the server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
