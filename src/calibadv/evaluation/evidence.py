"""What a question needs from a corpus: a passage with a golden answer, and its supporting passages where named.

Answers are looked for in the title or the text: lower case, no articles, whole words, any punctuation between words.
The scores of `rewards.metrics` delete punctuation instead, which fits short answers; in running text that would hide
"Oslo" in "Oslo's" and "1940" in "1939-1940". Questions whose golden answers are all "yes" or "no" have nothing to look
for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calibadv.errors import DataError
from calibadv.retrieval.base import Hit
from calibadv.trajectory import Document, Question

NEVER = 10**9
"""The rank of something that was not found."""
_WORD = re.compile(r"\w+")
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What would answer a question."""

    answers: tuple[str, ...]
    """Golden answers as `plain_words`; those without a word left ("The", "?") are left out."""
    yes_no: bool
    """All golden answers are yes or no: nothing can be looked for."""
    titles: tuple[str, ...]
    """Titles of the supporting articles, distinct by `title_key`; () when the data does not say."""
    ids: tuple[frozenset[str], ...]
    """Per supporting title the ids of its passages, one of which is enough; () when unknown."""

    @property
    def searchable(self) -> bool:
        """There is an answer to look for."""
        return bool(self.answers) and not self.yes_no


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where in the hits of a question its evidence is, from 1; `NEVER` when it is not there."""

    answer: int
    """The first passage with a golden answer."""
    support: int
    """The passage that completes the supporting ones."""


def evidence_of(question: Question, *, use_ids: bool = True) -> Evidence:
    """Read the golden answers and the ``supporting_ids`` / ``supporting_titles`` (or ``supporting_facts``) of a row."""
    answers = tuple(dict.fromkeys(filter(None, map(plain_words, question.golden_answers))))
    metadata = question.metadata
    titles = metadata.get("supporting_titles")
    facts = metadata.get("supporting_facts")
    if titles is None and isinstance(facts, Mapping):  # as HotpotQA and the FlashRAG collection write it
        titles = facts.get("title")
    names = {title_key(title): title for title in _texts(titles, question=question, field="supporting_titles")}
    groups = _list(metadata.get("supporting_ids") if use_ids else None, question=question, field="supporting_ids")
    return Evidence(
        answers=answers,
        yes_no=bool(answers) and all(answer in ("yes", "no") for answer in answers),
        titles=tuple(names.values()),
        ids=tuple(frozenset(_texts(_as_list(ids), question=question, field="supporting_ids")) for ids in groups),
    )


def ranks_of(evidence: Evidence, hits: Sequence[Hit], *, texts: PassageTexts) -> Ranks:
    """Find the evidence among the hits; supporting passages by id where ids are known, else by title."""
    answer = NEVER
    if evidence.searchable:
        found = (rank for rank, hit in enumerate(hits, start=1) if holds(texts[hit.document], evidence.answers))
        answer = next(found, NEVER)
    support = NEVER
    if evidence.ids:
        ranks = {hit.document.id: rank for rank, hit in reversed(list(enumerate(hits, start=1)))}
        support = max(min((ranks[i] for i in group if i in ranks), default=NEVER) for group in evidence.ids)
    elif evidence.titles:
        by_title = {title_key(hit.document.title): rank for rank, hit in reversed(list(enumerate(hits, start=1)))}
        support = max(by_title.get(title_key(title), NEVER) for title in evidence.titles)
    return Ranks(answer, support)


class PassageTexts:
    """Normalised passages by id, so that one found by many questions is normalised once; forgets when it is full."""

    def __init__(self, *, size: int = 50_000) -> None:
        self._size = size
        self._texts: dict[str, str] = {}

    def __getitem__(self, document: Document) -> str:
        text = self._texts.get(document.id)
        if text is None:
            if len(self._texts) >= self._size:
                self._texts.clear()
            text = self._texts[document.id] = padded(passage_words(document))
        return text


def plain_words(text: str) -> str:
    """The words of a text, lower case, without articles and punctuation.

    >>> plain_words("The Oslo-Bergen line's U.S. tour")
    'oslo bergen line s u s tour'
    """
    return padded(raw_words(text)).strip()


def raw_words(text: str) -> list[str]:
    """The words of a text, lower case, articles included."""
    return _WORD.findall(_composed(text).lower())


def passage_words(document: Document) -> list[str]:
    """The words of title and text, with a line break between them that no answer spans."""
    return [*raw_words(document.title), "\n", *raw_words(document.text)]


def padded(words: Sequence[str]) -> str:
    """Words without articles, with blanks around each, so that `holds` can compare whole words."""
    return f" {' '.join([word for word in words if word not in _ARTICLES])} "


def holds(passage: str, answers: Sequence[str]) -> bool:
    """One of the answers occurs in the `padded` words of a passage, as whole words.

    >>> holds(" mont blanc is mountain ", ["is mountain"]), holds(" unknown ", ["no"])
    (True, False)
    """
    return any(f" {answer} " in passage for answer in answers)


def title_key(title: str) -> str:
    """How titles are compared: without case, surrounding quotes, underscores for blanks.

    >>> title_key('"Ada_Lovelace "')
    'ada lovelace'
    """
    return " ".join(_composed(title).replace("_", " ").replace('"', " ").split()).casefold()


def _composed(text: str) -> str:
    """One form for letters with accents, and no hyphens that only say where a word may be broken."""
    return text if text.isascii() else unicodedata.normalize("NFC", text).replace(_SOFT_HYPHEN, "")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int) else value


def _list(value: Any, *, question: Question, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise DataError(f"question {question.id!r}: metadata.{field} must be a list, got {value!r:.80}")
    return list(value)


def _texts(value: Any, *, question: Question, field: str) -> list[str]:
    items = _list(value, question=question, field=field)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise DataError(f"question {question.id!r}: metadata.{field} must hold text, got {item!r:.80}")
    return [str(item) for item in items]
