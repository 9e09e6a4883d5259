"""What the rollout needs of a tokenizer, an adapter for those of transformers, and a character tokenizer for tests.

Text becomes token ids here once per prompt and once per observation. What the policy sampled is never encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from calibadv.errors import ConfigError

OURS_TO_SET = frozenset(
    {"messages", "conversation", "add_generation_prompt", "tokenize", "continue_final_message", "chat_template"}
)
"""Arguments of a chat template that are no one's to set but the rollout's."""


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a generation; may be empty."""
        ...

    @property
    def pad_id(self) -> int:
        """An id for padding; its positions are always masked."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; none are added at its ends."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens included."""
        ...

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """The messages as prompt text that invites an answer, or None without a chat template."""
        ...

    def opening(self) -> str:
        """Text that starts every context when no chat template is used (a beginning-of-sequence marker or "")."""
        ...


class HFTokenizer:
    """A tokenizer of the transformers library. It need not have a pad token."""

    def __init__(
        self, tokenizer: Any, *, chat_template: bool = True, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.inner = tokenizer
        self.template_kwargs = dict(template_kwargs or {})
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self._use_chat = chat_template and bool(getattr(tokenizer, "chat_template", None))
        eos = getattr(tokenizer, "eos_token_id", None)
        self._eos_ids: tuple[int, ...] = () if eos is None else (int(eos),)
        pad = getattr(tokenizer, "pad_token_id", None)
        self._pad_id = int(pad) if pad is not None else (self._eos_ids[0] if self._eos_ids else 0)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self._eos_ids

    @property
    def pad_id(self) -> int:
        return self._pad_id

    def encode(self, text: str) -> list[int]:
        fast = self._fast
        # The same ids, without the detour over batches and threads; unless someone left truncation or padding
        # switched on.
        if fast is not None and fast.truncation is None and fast.padding is None:
            return list(fast.encode(text, add_special_tokens=False).ids)
        ids: list[int] = self.inner.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.inner.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        if not self._use_chat:
            return None
        try:
            text: str = self.inner.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_kwargs
            )
        except Exception as error:  # templates are programs of others and raise what they like
            raise ConfigError(
                f'the tokenizer\'s chat template cannot render the prompt ({error}); set model.chat_template = "none", '
                "or repair the template"
            ) from error
        return text

    def with_template_kwargs(self, kwargs: Mapping[str, Any]) -> HFTokenizer:
        """The same, with these values for its chat template.

        Raises:
            ConfigError: It has no chat template, or one that does not mention a value: it would be ignored.
        """
        template = self.inner.get_chat_template() if self._use_chat else ""
        for name in kwargs:
            if name in OURS_TO_SET:
                raise ConfigError(f"rollout.chat_template_kwargs must not hold {name}: the rollout sets it")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                where = "the tokenizer's chat template does not use it" if template else "there is no chat template"
                raise ConfigError(f"rollout.chat_template_kwargs holds {name}, but {where}; leave it out")
        return HFTokenizer(self.inner, chat_template=self._use_chat, template_kwargs=kwargs)

    def opening(self) -> str:
        bos = getattr(self.inner, "bos_token_id", None)
        if bos is None:
            return ""
        # Only where the tokenizer itself begins every text with it.
        starts_with_bos = list(self.inner("a").input_ids)[:1] == [bos]
        return str(self.inner.bos_token) if starts_with_bos else ""


class CharTokenizer:
    """One character is one token, its code point; 0 pads and 3 (end of text) ends a generation. For tests and examples.

    >>> CharTokenizer().decode(CharTokenizer().encode("tags <think>"))
    'tags <think>'
    """

    eos_ids = (3,)
    pad_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        return None

    def opening(self) -> str:
        return ""


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """``tokenizer`` itself, or its adapter when it is one of the transformers library's."""
    if hasattr(tokenizer, "chat") and hasattr(tokenizer, "opening"):
        kept: Tokenizer = tokenizer
        return kept
    return HFTokenizer(tokenizer)


def with_template_kwargs(tokenizer: Tokenizer, kwargs: Mapping[str, Any]) -> Tokenizer:
    """``tokenizer`` with further values for its chat template (``rollout.chat_template_kwargs``).

    Raises:
        ConfigError: It cannot take them, or its template would ignore one.
    """
    if not kwargs:
        return tokenizer
    make = getattr(tokenizer, "with_template_kwargs", None)
    if make is None:
        raise ConfigError(
            f"rollout.chat_template_kwargs {dict(kwargs)} cannot be used: {type(tokenizer).__name__} renders no chat "
            "template here; leave them out"
        )
    templated: Tokenizer = make(kwargs)
    return templated


def eos_ids_of(generation: Any) -> set[int]:
    """End tokens of a generation config; it may hold none, one, or several."""
    eos = getattr(generation, "eos_token_id", None)
    return set() if eos is None else {eos} if isinstance(eos, int) else {int(token) for token in eos}
