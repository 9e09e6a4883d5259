"""Questions to search plans: what has to be looked up, in which order, and what it should give.

A plan comes from what a question file says about its questions: MuSiQue's decomposition into sub-questions, 2Wiki's
into triples, the supporting titles of HotpotQA and 2Wiki, or nothing but the question (single-hop sets).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from calibadv.rewards.answer_scores import normalize_answer
from calibadv.trajectory import Question

Kind = Literal["chain", "comparison", "single"]

_EARLIER = re.compile(r"#(\d+)")
_QUESTION_WORD = re.compile(
    r"a|an|and|are|at|be|been|by|did|do|does|for|from|has|have|how|in|is|it|its|many|much|of|on|"
    r"or|s|that|the|their|this|to|was|were|what|when|where|which|who|whom|whose|why|with"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One thing to look up."""

    need: str
    """What is wanted, as it stands in a sentence: "the director of Lorna"."""
    queries: tuple[str, ...]
    """Searches to try, in this order."""
    answer: str = ""
    """What the documents should say; "" when only the article itself is known."""
    subject: str = ""
    """Whom or what it is about; must have been named before (in the question or a document) where it is known."""
    title: str = ""
    """Title of the article that says it, where it is known."""
    ids: frozenset[str] = frozenset()
    """Ids of the passages that say it, where they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The hops of a question."""

    kind: Kind
    hops: tuple[Hop, ...]


def make_plan(question: Question) -> Plan | None:
    """The plan for a question; None when its row says too little.

    >>> steps = [{"subject": "Lorna", "relation": "director", "object": "Russ Meyer"}]
    >>> q = Question(id="1", text="Who made Lorna?", golden_answers=("Russ Meyer",), metadata={"decomposition": steps})
    >>> make_plan(q).hops[0].queries
    ('Lorna director', 'director of Lorna', 'Lorna')
    """
    metadata = question.metadata
    steps = metadata.get("decomposition")
    if isinstance(steps, list) and steps and all(isinstance(step, Mapping) for step in steps):
        if all({"subject", "relation", "object"} <= step.keys() for step in steps):
            return _from_triples(question, steps)
        if all({"question", "answer"} <= step.keys() for step in steps):
            return _from_sub_questions(question, steps)
    titles = metadata.get("supporting_titles")
    if isinstance(titles, list) and titles and all(isinstance(title, str) for title in titles):
        return _from_titles(question, titles)
    if "hops" in metadata or "titles_from" in metadata or metadata.get("evidence_in_rollout") is False:
        return None  # several hops, and nothing said about them; or an answer found by accident only
    queries = _distinct(key_words(question.text), question.text.rstrip("?"))
    return Plan(kind="single", hops=(Hop(need=f'the answer to "{question.text}"', queries=queries),))


def _distinct(*queries: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(query for query in queries if query))


def key_words(text: str) -> str:
    """A question without the words that a search engine has no use for.

    >>> key_words("who has sang the most national anthems?")
    'sang most national anthems'
    """
    words = re.findall(r"[\w'\u2019.-]+", text)
    return " ".join(word for word in words if not _QUESTION_WORD.fullmatch(word.lower().strip("."))).rstrip(".")


def _from_triples(question: Question, steps: Sequence[Mapping[str, Any]]) -> Plan:
    titles = _titles(question)
    asked = question.metadata.get("sub_questions")
    if not isinstance(asked, list) or len(asked) != len(steps):
        asked = [{}] * len(steps)
    hops = []
    for step, sub_question in zip(steps, asked, strict=True):
        subject, relation, answer = (str(step[name]) for name in ("subject", "relation", "object"))
        title = next((t for t in titles if plain(t) == plain(subject)), "")
        spoken = str(sub_question.get("question", "")).rstrip("?")
        hops.append(
            Hop(
                need=f"the {relation} of {subject}",
                queries=_distinct(f"{subject} {relation}", spoken, f"{relation} of {subject}", title or subject),
                answer=answer,
                subject=subject,
                title=title,
                ids=titles.get(title, frozenset()),
            )
        )
    follows = any(
        plain(hops[n].answer) in plain(later.subject) or plain(later.subject) in plain(hops[n].answer)
        for n in range(len(hops) - 1)
        for later in hops[n + 1 :]
    )
    return Plan(kind="chain" if follows or len(hops) == 1 else "comparison", hops=tuple(hops))


def _from_sub_questions(question: Question, steps: Sequence[Mapping[str, Any]]) -> Plan | None:
    titles = _titles(question)
    answers = [str(step["answer"]) for step in steps]
    hops = []
    for number, step in enumerate(steps):
        references = [int(found) for found in _EARLIER.findall(str(step["question"]))]
        if any(not 1 <= reference <= number for reference in references):
            return None  # refers to a later step or to none
        text = " ".join(_EARLIER.sub(lambda match: answers[int(match[1]) - 1], str(step["question"])).split())
        title = str(step.get("supporting_title") or "")
        subject, arrow, relation = text.partition(" >> ")
        if arrow:
            need, queries = f"the {relation} of {subject}", _distinct(f"{subject} {relation}", subject)
        else:
            subject = answers[references[-1] - 1] if references else ""
            text = text.rstrip("?").strip()
            need, queries = f'the answer to "{text}"', _distinct(text, key_words(text))
        hops.append(
            Hop(
                need=need,
                queries=queries,
                answer=answers[number],
                subject=subject,
                title=title,
                ids=titles.get(title, frozenset()),
            )
        )
    return Plan(kind="chain", hops=tuple(hops))


def _from_titles(question: Question, titles: Sequence[str]) -> Plan:
    """Articles that the question names come first; the others must turn up in what they say."""
    ids = _titles(question)
    asked = plain(question.text)
    ordered = sorted(dict.fromkeys(titles), key=lambda title: named_at(title, asked))
    words = key_words(question.text)
    hops = [
        Hop(
            need=f"what is known about {bare(title)}",
            queries=(bare(title), f"{bare(title)} {words}"),
            subject=bare(title),
            title=title,
            ids=ids.get(title, frozenset()),
        )
        for title in ordered
    ]
    named = [hop for hop in hops if f" {plain(hop.subject)} " in f" {asked} "]
    return Plan(kind="comparison" if len(named) == len(hops) > 1 else "chain", hops=tuple(hops))


def named_at(title: str, asked: str) -> int:
    """Where a normalised question names a title; after its end when it does not."""
    at = f" {asked} ".find(f" {plain(bare(title))} ")
    return at if at >= 0 else len(asked) + 1


def _titles(question: Question) -> dict[str, frozenset[str]]:
    """Supporting title -> ids of its passages."""
    titles = question.metadata.get("supporting_titles") or []
    ids = question.metadata.get("supporting_ids") or [[]] * len(titles)
    found: dict[str, frozenset[str]] = {}
    for title, passages in zip(titles, ids, strict=False):
        found[title] = found.get(title, frozenset()) | frozenset(map(str, passages))
    return found


def bare(title: str) -> str:
    """A title without what tells it from others of its name.

    >>> bare("Lorna (1964 film)")
    'Lorna'
    """
    return re.sub(r"\s*\([^()]*\)$", "", title).strip() or title


def plain(text: str) -> str:
    """Normalised as answers are, without brackets at the end."""
    return normalize_answer(bare(text))
