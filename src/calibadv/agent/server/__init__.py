"""The agent over HTTP: OpenAI's chat endpoints, health, figures, and a page to ask from.

Map: ``wire`` is the chat format, ``app`` the endpoints, ``run`` listens, ``settings`` are the operator's, ``page.html``
is what a browser gets. Needs the `serve` extra.
"""

from calibadv.agent.server.run import claim_address, serve
from calibadv.agent.server.settings import AgentServerConfig

__all__ = ["AgentServerConfig", "claim_address", "serve"]
