"""The lab's tokenizer: one token for each word it knows, each tag, and each piece of an observation's scaffolding.

A word-level tokenizer of the Hugging Face `tokenizers` library, so ``AutoTokenizer`` loads it like any other. Decoding
puts a space between all tokens: the words survive the round trip, their spacing does not ("Vano ." for "Vano.").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lab import names
from calibadv.lab.base_policy import phrases
from calibadv.lab.world import RELATIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<eos>", "<unk>")
TAGS = tuple(f"<{slash}{name}>" for name in ("think", "search", "information", "answer") for slash in ("", "/"))
MAX_DOCUMENTS = 5
"""Observations of up to this many documents have one-token headings."""
SCAFFOLDING = (*(f'Doc {number}(Title: "' for number in range(1, MAX_DOCUMENTS + 1)), '")')
PUNCTUATION = (".", ",", "?", "(", ")", ":", '"', "/", "<", ">", "-", "'")


def vocabulary() -> tuple[str, ...]:
    """Every token; its place is its id."""
    pools = (names.YEARS, names.COUNTRIES, names.RIVERS, names.FIRST_WORDS, names.LAST_WORDS)
    words = (
        *PUNCTUATION,
        "Doc",
        "Title",
        *RELATIONS,
        *phrases.vocabulary(),
        *(word for pool in pools for word in pool),
    )
    return tuple(dict.fromkeys((*SPECIAL, *TAGS, *SCAFFOLDING, *words)))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers object, ready for ``save_pretrained``."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    # Not special: decoding must keep the tags, whether or not special tokens are skipped.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (*TAGS, *SCAFFOLDING)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
