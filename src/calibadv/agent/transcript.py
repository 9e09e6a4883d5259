"""An agent at work as text: each event as labelled lines."""

from __future__ import annotations

from collections.abc import Iterator

from calibadv.agent.events import DocumentsFound, Event, Finished, TurnWritten
from calibadv.io.terminal import BOLD, CYAN, DIM, GREEN, YELLOW, Blocks
from calibadv.trajectory import ActionKind


def event_lines(event: Event, *, blocks: Blocks) -> list[str]:
    """What a person watching should see of an event."""
    return [line for label, text, style in _parts(event) if text.strip() for line in blocks.block(label, text, style)]


def _parts(event: Event) -> Iterator[tuple[str, str, str]]:
    """Label, text and style."""
    if isinstance(event, TurnWritten):
        if event.action.kind is ActionKind.INVALID:
            yield "wrote", event.text, DIM
            return
        yield "think", event.thinking, DIM
        if event.action.kind is ActionKind.SEARCH:
            yield "search", event.action.content, CYAN
    elif isinstance(event, DocumentsFound):
        titles = [document.title or document.id for document in event.documents]
        yield "found", "; ".join(titles) or "nothing", YELLOW
    elif isinstance(event, Finished):
        yield from _end(event)


def _end(end: Finished) -> Iterator[tuple[str, str, str]]:
    """The answer with the documents that hold it."""
    if end.answer is None:
        yield "no answer", end.explanation() or "", BOLD
    else:
        yield "answer", end.answer, GREEN
        for source in end.sources:
            if source.holds_answer:
                yield "source", f"{source.document.title or source.document.id} (id {source.document.id})", YELLOW
    searches = len(end.trajectory.search_turns)
    spent = f"{searches} search{'es' if searches != 1 else ''}, {end.completion_tokens} tokens written"
    yield "", f"{spent}, {end.seconds:.1f} s", DIM
