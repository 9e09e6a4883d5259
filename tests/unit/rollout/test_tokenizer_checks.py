"""Tokenizers and chat templates that would spoil every rollout are refused before the first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.rollout import CharTokenizer, HFTokenizer
from calibadv.rollout.tokenizer_checks import check_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class WithTemplate(CharTokenizer):
    """A character tokenizer with a Jinja chat template."""

    def __init__(self, template: str) -> None:
        self.template = template

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        jinja2 = pytest.importorskip("jinja2")
        text: str = jinja2.Template(self.template).render(messages=messages, add_generation_prompt=True)
        return text


def test_a_plain_tokenizer_is_fine() -> None:
    check_tokenizer(CharTokenizer(), name="m")


def test_a_template_that_only_adds_is_fine(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_tokenizer(WithTemplate(CHATML), name="m")
    assert not caplog.text


def test_a_tokenizer_that_tears_tags_apart_is_refused() -> None:
    class Torn(CharTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).replace("</", "< /")

    with pytest.raises(ConfigError, match=r"model\.path some/model: its tokenizer does not keep the tag </think>"):
        check_tokenizer(Torn(), name="some/model")


def test_a_tokenizer_that_changes_case_is_refused() -> None:
    class Shouting(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.upper())

    with pytest.raises(ConfigError, match=r"does not keep the tag <think>.*Add the tags"):
        check_tokenizer(Shouting(), name="m")


def test_a_tokenizer_without_a_sign_of_the_tags_is_refused() -> None:
    class Poor(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            return [ord(char) if char.isalnum() or char.isspace() else ord("?") for char in text]

    with pytest.raises(ConfigError, match="does not keep the tag <think>"):
        check_tokenizer(Poor(), name="m")


def test_a_template_that_drops_the_question_is_refused() -> None:
    template = WithTemplate("<|user|>{{ messages[0].content[:5] }}<|assistant|>")
    with pytest.raises(ConfigError, match=r"shows the question 0 times.*model\.chat_template"):
        check_tokenizer(template, name="m")


def test_a_template_that_rewrites_earlier_turns_is_told_about(caplog: pytest.LogCaptureFixture) -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    with caplog.at_level(logging.WARNING):
        check_tokenizer(WithTemplate(template), name="org/model")
    assert "The chat template of org/model changes earlier turns" in caplog.text


def test_a_template_that_opens_the_thinking_itself_keeps_prefixes(caplog: pytest.LogCaptureFixture) -> None:
    template = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
    with caplog.at_level(logging.WARNING):
        check_tokenizer(WithTemplate(template), name="m")
    assert not caplog.text


def test_a_template_that_cannot_be_rendered_is_told_in_one_line() -> None:
    class Inner:
        chat_template = "x"

        def apply_chat_template(self, messages: Any, **_: Any) -> str:
            raise ValueError("Conversation roles must alternate")

    with pytest.raises(ConfigError, match=r'cannot render the prompt \(Conversation.*chat_template = "none"'):
        check_tokenizer_of(Inner())


def check_tokenizer_of(inner: Any) -> None:
    HFTokenizer(inner).chat([{"role": "user", "content": "?"}])
