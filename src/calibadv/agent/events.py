"""What happens while an agent answers a question, as records that can be shown, streamed or counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibadv.evaluation.evidence import holds, padded, passage_words, plain_words
from calibadv.trajectory import Action, ActionKind, Document, StopReason, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnWritten:
    """The policy has finished a turn."""

    turn: int
    """From 0."""
    thinking: str
    action: Action
    text: str
    """All that the policy wrote, tags included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsFound:
    """A search is back."""

    turn: int
    query: str
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The episode is over; always the last event unless the agent itself failed."""

    trajectory: Trajectory
    seconds: float

    @property
    def answer(self) -> str | None:
        """The answer, or None when the episode ended without one."""
        return self.trajectory.answer

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every document found, in order of appearance."""
        return find_sources(self.trajectory)

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the policy was given: the prompt and every observation, once."""
        return len(self.trajectory.prompt_token_ids) + sum(
            len(turn.observation_token_ids) for turn in self.trajectory.turns
        )

    @property
    def completion_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return sum(len(turn.token_ids) for turn in self.trajectory.turns)

    @property
    def usage(self) -> dict[str, int]:
        """The token counts as OpenAI's format has them."""
        given, written = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": given, "completion_tokens": written, "total_tokens": given + written}

    def explanation(self) -> str | None:
        """Why there is no answer, in plain words; None when there is one."""
        reason = self.trajectory.stop_reason
        if reason is StopReason.ANSWER:
            return None
        if reason is StopReason.INVALID_ACTION and self.trajectory.turns[-1].truncated:
            return f"{WITHOUT_ANSWER[reason]} before its turn was cut off (rollout.max_turn_tokens)"
        return WITHOUT_ANSWER[reason] + (f": {self.trajectory.error}" if self.trajectory.error else "")


Event = TurnWritten | DocumentsFound | Finished

WITHOUT_ANSWER = {
    StopReason.INVALID_ACTION: "the model wrote neither a query nor an answer",
    StopReason.SEARCH_LIMIT: "the model still wanted to search when rollout.max_searches was used up",
    StopReason.CONTEXT_LENGTH: "the model's context is full",
    StopReason.SEARCH_FAILED: "a search failed",
    StopReason.DEADLINE: "the time allowed for a question (rollout.deadline_s) is over",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A document that the agent was shown."""

    document: Document
    turn: int
    """The first turn whose search found it."""
    holds_answer: bool
    """The answer occurs in its title or text (lower case, without punctuation and articles)."""


def find_sources(trajectory: Trajectory) -> tuple[Source, ...]:
    """The documents of a trajectory, each once, with whether they hold its answer."""
    answer = plain_words(trajectory.answer or "")
    sources: dict[str, Source] = {}
    for number, turn in enumerate(trajectory.turns):
        for document in turn.documents:
            if document.id not in sources:
                found = bool(answer) and holds(padded(passage_words(document)), [answer])
                sources[document.id] = Source(document=document, turn=number, holds_answer=found)
    return tuple(sources.values())


def as_json(event: Event) -> dict[str, object]:
    """The event as a JSON object; ``type`` says which one."""
    if isinstance(event, TurnWritten):
        action = event.action
        turn = {
            "type": "turn",
            "turn": event.turn,
            "thinking": event.thinking.strip(),
            "action": str(action.kind),
            "content": action.content,
        }
        return turn | ({"text": event.text} if action.kind is ActionKind.INVALID else {})
    if isinstance(event, DocumentsFound):
        documents = _documents_json(event.documents)
        return {"type": "documents", "turn": event.turn, "query": event.query, "documents": documents}
    return {
        "type": "finished",
        "answer": event.answer,
        "stop_reason": str(event.trajectory.stop_reason),
        "explanation": event.explanation(),
        "sources": sources_json(event.sources),
        "searches": len(event.trajectory.search_turns),
        "turns": len(event.trajectory.turns),
        "usage": event.usage,
        "seconds": round(event.seconds, 3),
    }


def sources_json(sources: Sequence[Source]) -> list[dict[str, object]]:
    """Sources as JSON objects: id, title, text, turn, holds_answer."""
    return [
        {**_documents_json([source.document])[0], "turn": source.turn, "holds_answer": source.holds_answer}
        for source in sources
    ]


def _documents_json(documents: Sequence[Document]) -> list[dict[str, object]]:
    return [{"id": document.id, "title": document.title, "text": document.text} for document in documents]
