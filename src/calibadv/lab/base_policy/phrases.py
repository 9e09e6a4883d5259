"""What the lab's policy can say besides facts: free thinking from small sentence patterns, and the words of questions.

The thinking of a turn is a random run of sentences and then, after an observation, the fact that was read. The
sentences carry no information; they give the policy freedom (entropy, repetition, length) that RL can shape. A pattern
is a row of slots, and each slot offers a few words.
"""

from __future__ import annotations

import random

Pattern = tuple[tuple[str, ...], ...]


def _patterns(*lines: str) -> tuple[Pattern, ...]:
    return tuple(tuple(tuple(slot.split("/")) for slot in line.split()) for line in lines)


OPENING = _patterns(
    "now/first/here/so i/we must/should/will/can find/search/check/read the/a/one document/article/page",
    "let me/us see/think/look/search now/first/again/here",
    "this/that needs/takes a/one/another search/look/document/page",
    "what/who do i/we know/have about/of this/that",
)
"""Before the first search."""

READING = _patterns(
    "the/this/that document/article/page says/tells/shows/has it/this/that",
    "now/here/so i/we see/have/know/read it/this/that",
    "this/that/it looks/seems/is right/good/clear/new",
    "one/some of them/these must/should/may be right/it",
)
"""After an observation."""

DOUBTING = _patterns(
    "but/or/yet/so it/this/that may/could/might/must be/mean/name another/some/one other name/page/town/person",
    "perhaps/maybe/surely/still i/we should/could/must/may check/read/look/search it/this/that again/first/now/here",
    "i/we do not know/see/remember/recall which/what/who this/that is/was",
    "these/the/such names/pages/words/articles look/are/sound alike/wrong/odd/right",
)
"""Anywhere; long runs of these are a bad sign."""

NOT_FOUND = "not found"
EARLIER = "earlier"
_QUESTION_WORDS = "what is the of tell me i want to know which had earlier or and"


def think(rng: random.Random, *, mean: float, after_search: bool, at_least_one: bool = False) -> list[str]:
    """Words of a random run of sentences; their number is geometric with this mean."""
    words: list[str] = []
    while rng.random() < mean / (1 + mean) or (at_least_one and not words):
        calm = rng.random() < 0.6
        pattern = rng.choice((READING if after_search else OPENING) if calm else DOUBTING)
        words += [rng.choice(slot) for slot in pattern]
    return words


def doubt(rng: random.Random, *, sentences: int) -> list[str]:
    """Words of this many doubting sentences."""
    return [rng.choice(slot) for _ in range(sentences) for slot in rng.choice(DOUBTING)]


def vocabulary() -> tuple[str, ...]:
    """Every word used here, sorted."""
    slots = [word for pattern in OPENING + READING + DOUBTING for slot in pattern for word in slot]
    return tuple(sorted({*slots, *NOT_FOUND.split(), EARLIER, *_QUESTION_WORDS.split()}))
