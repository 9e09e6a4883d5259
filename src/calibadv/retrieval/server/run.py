"""Serves until SIGTERM or SIGINT, then answers what was accepted, and ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from calibadv.io.serving import GracefulServer, listen
from calibadv.retrieval.client.servers import TOKEN_VARIABLE
from calibadv.retrieval.server.app import create_app
from calibadv.retrieval.server.backend import Load
from calibadv.retrieval.server.config import ServerConfig
from calibadv.retrieval.server.service import RetrievalService

SWITCH_INTERVAL_S = 0.001
"""The event loop waits at most about this long for the worker's Python code to let it run."""
KEEP_ALIVE_S = 75
"""Between two turns of its rollouts a client is silent for a while; its connection should still be there then."""


def serve(load: Load, *, config: ServerConfig, on_listening: Callable[[str], None] = lambda url: None) -> None:
    """Listen at once, load the index in the background, and serve it until a signal comes.

    ``on_listening`` gets the URL. Raises what ``load`` raised when the index cannot be loaded.
    """
    service = RetrievalService(load, config=config)
    listener = listen(config.host, config.port, token=config.token, token_variable=TOKEN_VARIABLE)
    server = GracefulServer(create_app(service), grace_s=config.shutdown_grace_s, keep_alive_s=KEEP_ALIVE_S)
    service.on_failure = server.end
    service.on_ready = gc.freeze  # looking through index and libraries for garbage takes a tenth of a second each time
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        server.serve_on(listener, host=config.host, on_listening=on_listening)
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
    if service.error is not None:
        raise service.error
