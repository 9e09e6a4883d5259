"""The tokenizer of `OpenAIPolicy`: a context is token ids for the engine, text or messages for the server.

With the served model's own tokenizer ids are the model's. Without one, text is cut into pieces of at most five letters
that are numbered as they come: they read back exactly, and their number estimates the tokens of English text; as ids
they mean nothing outside of this object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from calibadv.errors import ConfigError
from calibadv.rollout.tokenizer import Tokenizer, with_template_kwargs

USER, ASSISTANT = "\ue000", "\ue001"  # private characters; they stand where the user message begins and ends
_MARKS = {USER: 2_000_000_000, ASSISTANT: 2_000_000_001}
_NAMES = {number: mark for mark, number in _MARKS.items()}
_PIECE = re.compile(r"\s?\w{1,5}|\s?[^\w\s]|\s+")


class Split(NamedTuple):
    """A context by who wrote it."""

    user: str
    assistant: str
    """All that came after the user message: prefill, turns and observations."""


class TextTokenizer:
    """Text to ids and back; ``as_messages`` marks the user message instead of rendering a chat template.

    >>> tokenizer = TextTokenizer()
    >>> tokenizer.decode(tokenizer.encode("Who wrote  it?"))
    'Who wrote  it?'
    """

    eos_ids: tuple[int, ...] = ()
    pad_id = 0

    def __init__(self, inner: Tokenizer | None = None, *, as_messages: bool = False) -> None:
        self.inner = inner
        self.as_messages = as_messages
        self._pieces: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}

    def encode(self, text: str) -> list[int]:
        if not self.as_messages:
            return self._encode(text)
        ids: list[int] = []
        for part in re.split(f"([{USER}{ASSISTANT}])", text):
            ids += [_MARKS[part]] if part in _MARKS else self._encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text, start = "", 0
        for index, token in enumerate(ids):
            if token in _NAMES:
                text += self._decode(ids[start:index]) + _NAMES[token]
                start = index + 1
        return text + self._decode(ids[start:])

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        if not self.as_messages:
            return None if self.inner is None else self.inner.chat(messages)
        (message,) = messages
        # The marks themselves must not come from a question.
        return USER + re.sub(f"[{USER}{ASSISTANT}]", "\ufffd", message["content"]) + ASSISTANT

    def with_template_kwargs(self, kwargs: Mapping[str, Any]) -> TextTokenizer:
        """The same, with these values for the chat template of the served model's own tokenizer."""
        if self.as_messages or self.inner is None:
            raise ConfigError(
                f"rollout.chat_template_kwargs {dict(kwargs)} cannot be used: the server renders its own template; "
                'leave them out, or set model.tokenizer and model.api = "completions"'
            )
        return TextTokenizer(with_template_kwargs(self.inner, kwargs))

    def opening(self) -> str:
        return ""  # a server puts its beginning-of-sequence token before text itself

    def split(self, ids: Sequence[int]) -> Split:
        """The user message and what follows it; only with ``as_messages``."""
        user, _, assistant = self.decode(ids).removeprefix(USER).partition(ASSISTANT)
        return Split(user, assistant)

    def _encode(self, text: str) -> list[int]:
        if self.inner is not None:
            return self.inner.encode(text)
        return [self._number(piece) for piece in _PIECE.findall(text)]

    def _decode(self, ids: Sequence[int]) -> str:
        if self.inner is not None:
            return self.inner.decode(ids) if len(ids) else ""
        return "".join(self._pieces[token] for token in ids)

    def _number(self, piece: str) -> int:
        number = self._numbers.setdefault(piece, len(self._pieces))
        if number == len(self._pieces):
            self._pieces.append(piece)
        return number
