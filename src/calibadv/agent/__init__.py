"""A trained agent that people and programs can ask.

- `agent`: answers questions as they come: the rollout's scheduler, open to questions at any time and from any thread
- `events`: what happens while an agent answers a question, as records that can be shown, streamed or counted
- `transcript`: an agent at work as text: each event as labelled lines
- `server`: the agent over HTTP: OpenAI's chat endpoints, health, figures, and a page to ask from
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.agent.agent import Agent, AgentBusy, Conversation
    from calibadv.agent.events import DocumentsFound, Event, Finished, Source, TurnWritten

__all__ = ["Agent", "AgentBusy", "Conversation", "DocumentsFound", "Event", "Finished", "Source", "TurnWritten"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.agent.agent": (
            "Agent",
            "AgentBusy",
            "Conversation",
        ),
        "calibadv.agent.events": (
            "DocumentsFound",
            "Event",
            "Finished",
            "Source",
            "TurnWritten",
        ),
    },
)
