"""The words of the fictional encyclopedia: names put together from syllables, countries, rivers, years.

The pools are fixed (they are the tokenizer's vocabulary); a world decides which words meet in a name. Every name has two
words, and names share words on purpose: that is what lets a word-matching retriever go wrong.
"""

from __future__ import annotations

import random

_ONSETS = "b br d dr f fl g gr h k kl l m n p pr r s sk st t tr v z".split()
_VOWELS = "a e i o u ai ei ou".split()
_CODAS = "l m n r s th x k".split()
_RESERVED = frozenset("a an the and or of is in on at to no so me it".split())


def _invent(count: int, *, seed: int, endings: tuple[str, ...], taken: set[str]) -> tuple[str, ...]:
    """``count`` new capitalised words that end in one of ``endings``; they are added to ``taken``."""
    rng = random.Random(seed)
    words: list[str] = []
    while len(words) < count:
        syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2)))]
        word = ("".join(syllables) + rng.choice(endings)).capitalize()
        if word.lower() not in taken and len(word) >= 4:
            taken.add(word.lower())
            words.append(word)
    return tuple(words)


_taken: set[str] = set(_RESERVED)

FIRST_WORDS: tuple[str, ...] = _invent(240, seed=1, endings=("", *_CODAS), taken=_taken)
"""First words of names: shared by people, films, towns and all the rest."""
LAST_WORDS: tuple[str, ...] = _invent(420, seed=2, endings=tuple(c + v for c in "dbgknrt" for v in "aeio"), taken=_taken)
"""Last words of names; a document calls its subject by this word alone, as an article uses a surname."""
COUNTRIES: tuple[str, ...] = _invent(40, seed=3, endings=("land", "nia", "stan"), taken=_taken)
RIVERS: tuple[str, ...] = _invent(40, seed=4, endings=("water", "brook", "mere"), taken=_taken)
YEARS: tuple[str, ...] = tuple(str(year) for year in range(1930, 1990))
