"""The agent over HTTP: OpenAI's chat endpoints, health, figures, and a page to ask from.

- `app`: the FastAPI application: an agent behind the OpenAI chat endpoints, health, figures, and one page for people
- `config`: what the operator of an agent server decides
- `metrics`: prometheus figures of the agent server, in a registry of their own
- `openai_format`: the OpenAI chat format: requests to questions, events to answers and to chunks of a stream
- `run`: serves an agent until a signal comes, then finishes the answers that were begun
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.agent.server.config import AgentServerConfig
    from calibadv.agent.server.run import claim_address, serve

__all__ = ["AgentServerConfig", "claim_address", "serve"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.agent.server.config": ("AgentServerConfig",),
        "calibadv.agent.server.run": (
            "claim_address",
            "serve",
        ),
    },
)
