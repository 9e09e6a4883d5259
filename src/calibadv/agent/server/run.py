"""Serves an agent until a signal comes, then finishes the answers that were begun."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket

from calibadv.agent.agent import Agent
from calibadv.agent.server.app import create_app
from calibadv.agent.server.config import TOKEN_VARIABLE, AgentServerConfig
from calibadv.io.serving import GracefulServer, listen


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
    server = GracefulServer(create_app(agent, config=config), grace_s=config.shutdown_grace_s)
    server.serve_on(listener, host=config.host, on_listening=on_listening)
