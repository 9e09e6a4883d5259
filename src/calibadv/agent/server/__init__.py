"""The agent over HTTP: OpenAI's chat endpoints, health, figures, and a page to ask from.

- `app`: the FastAPI application: an agent behind the OpenAI chat endpoints, health, figures, and one page for people
- `config`: what the operator of an agent server decides
- `metrics`: prometheus figures of the agent server, in a registry of their own
- `openai_format`: the OpenAI chat format: requests to questions, events to answers and to chunks of a stream
- `run`: serves an agent until a signal comes, then finishes the answers that were begun
"""

from calibadv.agent.server.config import AgentServerConfig
from calibadv.agent.server.run import claim_address, serve

__all__ = ["AgentServerConfig", "claim_address", "serve"]
