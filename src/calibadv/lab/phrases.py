"""What the lab's policy can say besides facts: small phrases of free thinking, and the words of questions.

The thinking of a turn is a random run of phrases and then, after an observation, the fact that was read. The phrases
carry no information; they give the policy freedom (entropy, repetition, length) that RL can shape.
"""

from __future__ import annotations

import random
import re

OPENING = (
    "let me see",
    "first i need a document",
    "this needs a search",
    "i should look this up",
    "what do i know about this",
    "i am not sure yet",
    "okay , step by step",
    "hmm , let me think",
    "the question asks for one thing",
    "there may be more than one of that name",
)
"""Before the first search."""

READING = (
    "let me read this",
    "the document says",
    "now i see",
    "here it is",
    "so i know this now",
    "that helps",
    "this looks right",
    "one of them must be the right one",
    "i found it",
    "good , so",
)
"""After an observation."""

RAMBLING = (
    "but wait",
    "maybe not",
    "it could also be another name",
    "i am still not sure",
    "let me think about it again",
    "the names look alike",
    "perhaps i should check this again",
    "or is it the other one",
    "that was not what i asked for",
    "who knows",
    "on the other hand it may be right",
    "i do not remember",
    "this is hard",
    "so what now",
)
"""Anywhere; long runs of these are a bad sign."""

NOT_FOUND = "not found"
EARLIER = "earlier"
_QUESTION_WORDS = "what is the of tell me i want to know which had earlier or and yes no same"


def ramble(rng: random.Random, *, mean: float, pool: tuple[str, ...], at_least_one: bool = False) -> list[str]:
    """Words of a random run of phrases; the number of phrases is geometric with this mean."""
    words: list[str] = []
    last = ""
    while rng.random() < mean / (1 + mean) or (at_least_one and not words):
        phrase = rng.choice(pool if rng.random() < 0.7 else RAMBLING)
        if phrase != last:
            words += phrase.split()
        last = phrase
    return words


def words() -> tuple[str, ...]:
    """Every word used here, sorted."""
    text = " ".join((*OPENING, *READING, *RAMBLING, NOT_FOUND, EARLIER, _QUESTION_WORDS))
    return tuple(sorted(set(re.findall(r"\w+", text))))
