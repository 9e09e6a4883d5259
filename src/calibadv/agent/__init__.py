"""A trained agent that people and programs can ask.

Map: ``live`` answers questions as they come (`LiveAgent`), ``events`` are what one sees of it.
"""

from calibadv.agent.events import DocumentsFound, Event, Finished, Source, TurnWritten
from calibadv.agent.live import AgentBusy, Conversation, LiveAgent

__all__ = ["AgentBusy", "Conversation", "DocumentsFound", "Event", "Finished", "LiveAgent", "Source", "TurnWritten"]
