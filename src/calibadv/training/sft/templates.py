"""The wording of demonstrations: templates of ours, so that no two thoughts need be alike."""

from __future__ import annotations

import re
from random import Random

FIRST = (
    "The question asks: {question} I should first find {need}.",
    "To answer this I need to know {need}. I will search for it.",
    "I do not know {need} for certain, so I will look it up.",
    "Let me think about what is needed. First of all: {need}.",
    "I have to find {need} before I can answer.",
    "This can be answered once I know {need}.",
)
NEXT = (
    "Now I need {need}.",
    "The next thing to find is {need}.",
    "With that, I can search for {need}.",
    "What is missing is {need}.",
    "I still have to find {need}.",
)
NOT_FOUND = (
    "None of these documents says {need}. I will try other words.",
    "That did not help: {need} is not mentioned. I will search again in another way.",
    "The documents are about something else. I will ask differently for {need}.",
)
FOUND = (
    'Doc {number} says: "{sentence}"',
    'According to Doc {number} ({title}): "{sentence}"',
    'I read in Doc {number}: "{sentence}"',
    'Doc {number} is about {title} and says "{sentence}"',
)
IN_TITLE = ('Doc {number} is about "{title}".', "There is an article about {title} in Doc {number}.")
SO = ("So {need} is {answer}.", "That means {need} is {answer}.", "{answer} is {need}.")
LAST = (
    "So the answer is {answer}.",
    "The answer is {answer}.",
    "That answers the question: {answer}.",
    "Hence {answer}.",
)
COMPARED = ("{subject}: {value}.", "For {subject} it is {value}.")

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
LONGEST_QUOTE = 40


def quote(text: str, *, around: str) -> str:
    """The sentence of a document that holds ``around`` (case aside), or the first one; cut to a window of words.

    >>> quote("It is old. Ada Quill wrote it in 1923. It sold well.", around="ada quill")
    'Ada Quill wrote it in 1923.'
    """
    flat = " ".join(text.split())
    at = flat.lower().find(around.lower()) if around else 0
    at = max(at, 0)
    start, end = 0, len(flat)
    for mark in _SENTENCE_END.finditer(flat):
        if mark.end() <= at:
            start = mark.end()
        elif mark.start() >= at + len(around):
            end = mark.start()
            break
    sentence = flat[start:end]
    words = sentence.split()
    if len(words) <= LONGEST_QUOTE:
        return sentence
    before = len(flat[start:at].split())
    first = max(0, min(before - LONGEST_QUOTE // 2, len(words) - LONGEST_QUOTE))
    return " ".join(words[first : first + LONGEST_QUOTE])


def say(rng: Random, templates: tuple[str, ...], **slots: object) -> str:
    """One of the templates, filled in, with a capital at its start."""
    text = re.sub(r"\{(\w+)\}", lambda slot: str(slots[slot[1]]), rng.choice(templates))
    return text[:1].upper() + text[1:]
