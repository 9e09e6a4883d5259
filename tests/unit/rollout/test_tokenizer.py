"""The adapter for tokenizers of the transformers library."""

from __future__ import annotations

from typing import Any

import pytest

from calibadv.rollout import CharTokenizer, HFTokenizer
from calibadv.rollout.tokenizer import as_tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
WORDS = ["<unk>", "<s>", "</s>", "<think>", "</think>", "who", "is", "it", "?", "user", ":"]


def make(*, bos: bool = False, template: str | None = None, **special: Any) -> Any:
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.add_tokens([tokenizers.AddedToken(tag) for tag in WORDS[1:5]])
    if bos:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)
    tokenizer.chat_template = template
    return tokenizer


def test_a_tokenizer_without_pad_token_pads_with_the_end_of_text() -> None:
    tokenizer = HFTokenizer(make(eos_token="</s>"))
    assert (tokenizer.eos_ids, tokenizer.pad_id) == ((2,), 2)
    assert HFTokenizer(make()).pad_id == 0
    assert HFTokenizer(make()).eos_ids == ()


def test_encoding_adds_nothing_and_decoding_keeps_tags() -> None:
    tokenizer = HFTokenizer(make(bos=True, bos_token="<s>", eos_token="</s>"))
    assert tokenizer.encode("who is it<think>") == [5, 6, 7, 3]
    assert tokenizer.decode([5, 3]) == "who <think>"


def test_truncation_left_switched_on_by_others_does_not_cut_observations() -> None:
    inner = make(eos_token="</s>")
    inner("who is it", truncation=True, max_length=1)
    assert HFTokenizer(inner).encode("who is it") == [5, 6, 7]


def test_a_chat_template_is_used_when_there_is_one() -> None:
    template = "{% for m in messages %}user: {{ m.content }}{% endfor %}{% if add_generation_prompt %} it:{% endif %}"
    tokenizer = HFTokenizer(make(template=template))
    assert tokenizer.chat([{"role": "user", "content": "who"}]) == "user: who it:"
    assert HFTokenizer(make()).chat([{"role": "user", "content": "who"}]) is None
    assert HFTokenizer(make(template=template), chat_template=False).chat([]) is None


def test_without_a_template_the_context_opens_as_the_tokenizer_opens_texts() -> None:
    assert HFTokenizer(make(bos=True, bos_token="<s>")).opening() == "<s>"
    assert HFTokenizer(make(bos_token="<s>")).opening() == ""
    assert HFTokenizer(make()).opening() == ""


def test_tokenizers_of_either_kind_are_accepted() -> None:
    chars = CharTokenizer()
    assert as_tokenizer(chars) is chars
    assert isinstance(as_tokenizer(make()), HFTokenizer)
