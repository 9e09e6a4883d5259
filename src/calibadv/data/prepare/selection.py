"""Which questions are kept: duplicates, seeded draws, and mixing by weights. Pure functions on lists of questions."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from calibadv.errors import ConfigError
from calibadv.rewards.answer_scores import normalize_answer
from calibadv.trajectory import Question

_ROW_NUMBER = re.compile(r"(?:[A-Za-z]+[_-]?)?\d{1,7}")
"""An id that only counts rows (``17``, ``row_17``): equal ones in two splits do not mean the same question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A question that was left out, and the one it repeats."""

    dataset: str
    id: str
    question: str
    reason: str
    """"same id as a test question", "same text as a test question" or "repeated"."""
    other: str
    """The question it repeats, as ``data set/id``."""


@dataclass(slots=True, kw_only=True)
class Known:
    """Questions that a training set must not hold."""

    texts: dict[str, str] = field(default_factory=dict)
    """Normalised text -> ``data set/id``."""
    ids: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, questions: Iterable[Question]) -> None:
        """Take questions in."""
        for question in questions:
            name = f"{question.dataset}/{question.id}"
            self.texts.setdefault(text_key(question.text), name)
            self.ids.setdefault((question.dataset, question.id), name)


def text_key(text: str) -> str:
    """What makes two questions the same: their words, without case, punctuation, articles and variants of characters.

    >>> text_key("Who wrote the  “Hobbit”?") == text_key("who wrote Hobbit")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(character for character in folded if not unicodedata.category(character).startswith("P"))
    return normalize_answer(words) or folded.strip()


def without_duplicates(questions: Sequence[Question], *, known: Known) -> tuple[list[Question], list[Removed]]:
    """The questions that neither ``known`` nor an earlier one of them holds, and those that were removed."""
    kept: list[Question] = []
    removed: list[Removed] = []
    seen: dict[str, str] = {}
    for question in questions:
        key = text_key(question.text)
        if not _ROW_NUMBER.fullmatch(question.id) and (question.dataset, question.id) in known.ids:
            reason, other = "same id as a test question", known.ids[question.dataset, question.id]
        elif key in known.texts:
            reason, other = "same text as a test question", known.texts[key]
        elif key in seen:
            reason, other = "repeated", seen[key]
        else:
            seen[key] = f"{question.dataset}/{question.id}"
            kept.append(question)
            continue
        removed.append(
            Removed(dataset=question.dataset, id=question.id, question=question.text, reason=reason, other=other)
        )
    return kept, removed


def repeated(questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Questions whose text an earlier one has, as (``data set/id``, the earlier one's)."""
    seen: dict[str, str] = {}
    named = [(f"{question.dataset}/{question.id}", text_key(question.text)) for question in questions]
    return [(name, other) for name, key in named if (other := seen.setdefault(key, name)) != name]


def shares(counts: Mapping[str, int], *, weights: Mapping[str, float], limit: int | None) -> dict[str, int]:
    """How many questions of each data set make a mixture with these weights.

    Without a limit the mixture is as large as the smallest data set, measured by its weight, permits.

    >>> shares({"a": 90, "b": 30}, weights={"a": 1, "b": 1}, limit=None)
    {'a': 30, 'b': 30}
    >>> shares({"a": 90, "b": 30}, weights={"a": 2, "b": 1}, limit=10)
    {'a': 7, 'b': 3}
    """
    total_weight = math.fsum(weights.values())
    possible = min(math.floor(counts[name] * total_weight / weight + 1e-9) for name, weight in weights.items())
    total = possible if limit is None else limit
    exact = {name: total * weight / total_weight for name, weight in weights.items()}
    taken = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    by_rest = sorted(weights, key=lambda name: (taken[name] - exact[name], -weights[name]))
    for name in by_rest[: total - sum(taken.values())]:
        taken[name] += 1
    if limit is None:
        return {name: min(number, counts[name]) for name, number in taken.items()}
    for name, number in taken.items():
        if number > counts[name]:
            raise ConfigError(
                f"--mix: {name} has {counts[name]:,} questions, but its share of --limit {limit:,} is {number:,}; "
                f"the largest mixture with these weights has {possible:,}"
            )
    return taken


def parse_weights(text: str, *, names: Sequence[str]) -> dict[str, float]:
    """``nq=2,hotpotqa=1``, or one number per data set in order.

    >>> parse_weights("2,1", names=["nq", "hotpotqa"])
    {'nq': 2.0, 'hotpotqa': 1.0}
    """
    parts = [part.strip() for part in text.split(",")]
    named = [part.partition("=") for part in parts]
    if all(equals for _, equals, _ in named):
        given = [(name.strip(), number) for name, _, number in named]
    elif any(equals for _, equals, _ in named) or len(parts) != len(names):
        raise ConfigError(
            f"--mix {text}: give one weight per data set, {len(names)} in all, such as --mix "
            + ",".join(f"{name}=1" for name in names)
        )
    else:
        given = list(zip(names, parts, strict=True))
    weights: dict[str, float] = {}
    for name, number in given:
        try:
            weights[name] = float(number)
        except ValueError:
            raise ConfigError(f"--mix {text}: {number!r} is not a number") from None
        if not (weights[name] > 0 and math.isfinite(weights[name])):
            raise ConfigError(f"--mix {text}: weights must be > 0, got {number}")
    if set(weights) != set(names) or len(given) != len(names):
        raise ConfigError(f"--mix {text}: it must weigh each of {', '.join(names)} once")
    return {name: weights[name] for name in names}
