"""What the operator of an agent server decides."""

from __future__ import annotations

from dataclasses import field

from calibadv.config_class import NonNegativeFloat, Port, PositiveFloat, PositiveInt, config_class
from calibadv.io.http import check_secret

TOKEN_VARIABLE = "CALIBADV_AGENT_TOKEN"


@config_class()
class AgentServerConfig:
    """Where it listens and how much it takes on."""

    host: str = "127.0.0.1"
    """Address to listen on; the default takes connections of this machine only."""
    port: Port = 8080
    """0: any free port."""
    model_name: str = "calibadv"
    """What clients see and may ask for."""
    max_conversations: PositiveInt = 64
    """Questions answered at once; more are refused with 503 and Retry-After."""
    max_question_chars: PositiveInt = 8_192
    """Characters of a question."""
    max_body_bytes: PositiveInt = 2**20
    """Bytes of a request body, earlier messages included."""
    body_timeout_s: PositiveFloat = 30.0
    """Seconds that a request body may take to arrive."""
    shutdown_grace_s: NonNegativeFloat = 30.0
    """Seconds that questions being answered may take after SIGTERM."""
    token: str | None = field(default=None, repr=False)
    """When set, requests need ``Authorization: Bearer <token>``, which OpenAI clients send as their API key; from
    CALIBADV_AGENT_TOKEN, never from a file."""
    examples: tuple[str, ...] = ()
    """Questions that the page offers."""

    def __post_init__(self) -> None:
        if self.token is not None:
            check_secret(self.token, variable=TOKEN_VARIABLE)
