"""What a turn asks for, read from the text the model wrote: the first complete tag pair decides."""

from __future__ import annotations

from typing import NamedTuple

from calibadv.tags import cut_at_stop, turn_parts
from calibadv.trajectory import Action, ActionKind

__all__ = ["ParsedTurn", "cut_at_stop", "read_turn"]


class ParsedTurn(NamedTuple):
    """A turn's thinking and the action it asks for."""

    thinking: str
    action: Action


def read_turn(text: str, *, think_open: bool) -> ParsedTurn:
    """Read one turn.

    An action counts wherever it stands, even inside of the thinking. Thinking counts when its tags are complete before
    the action.

    Args:
        text: What the model wrote.
        think_open: The opening think tag stands before ``text`` (the think prefill).

    Returns:
        The thinking, and the action of the first complete tag pair; without one the action is invalid.

    >>> read_turn(" who is it? </think><search> Ada Quill </search>", think_open=True)
    ParsedTurn(thinking='who is it?', action=Action(kind=<ActionKind.SEARCH: 'search'>, content='Ada Quill'))
    """
    thinking, pair = turn_parts(text, think_open=think_open)
    if pair is None:
        return ParsedTurn(thinking, Action(ActionKind.INVALID))
    return ParsedTurn(thinking, Action(ActionKind(pair.role), pair.content.strip()))
