"""Serves an agent until a signal comes, then finishes the answers that were begun."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from socket import socket

import uvicorn

from calibadv.agent.agent import Agent
from calibadv.agent.server.app import create_app
from calibadv.agent.server.config import TOKEN_VARIABLE, AgentServerConfig
from calibadv.io.serving import BACKLOG, GracefulServer, listen, url_of


def claim_address(config: AgentServerConfig) -> socket:
    """The bound socket: a port in use is said before a model is loaded."""
    return listen(config.host, config.port, token=config.token, token_variable=TOKEN_VARIABLE)


def serve(
    agent: Agent,
    *,
    config: AgentServerConfig,
    listener: socket,
    on_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or SIGINT; ``on_listening`` gets the URL."""
    grace_s = max(1, round(config.shutdown_grace_s))
    server = GracefulServer(
        uvicorn.Config(
            create_app(agent, config=config), log_config=None, access_log=False, timeout_graceful_shutdown=grace_s
        )
    )
    with closing(listener):
        listener.listen(BACKLOG)  # who connects from now on waits; uvicorn would refuse until it is up
        on_listening(url_of(listener, host=config.host))
        server.run(sockets=[listener])
