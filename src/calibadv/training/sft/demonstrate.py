"""Programmatic trajectories: a plan carried out with the real retriever, thoughts included.

Searches are those of the plan; the documents are what the policy would have been shown. A demonstration is only kept
when it really found what it then says: every hop in its documents, and the golden answer too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple

from calibadv.dialogue.observation import render_observation
from calibadv.dialogue.prompt import SEARCH_PROMPT, render_prompt
from calibadv.dialogue.sanitize import neutralise
from calibadv.retrieval.base import Retriever
from calibadv.rewards.answer_scores import normalize_answer
from calibadv.tags import THINK_CLOSE
from calibadv.training.sft import templates as phrases
from calibadv.training.sft.plans import Hop, Plan, plain
from calibadv.trajectory import Action, ActionKind, Document, Question, StopReason, Trajectory, Turn

YES_NO = frozenset({"yes", "no"})
QUERIES_AT_ONCE = 256

Demonstration = Generator[str, Any, Trajectory | str]
"""Yields queries, is sent documents, returns a trajectory or why there is none."""


class Evidence(NamedTuple):
    """Where a hop was answered."""

    number: int
    """Of the document in its observation, from 1."""
    document: Document
    in_text: bool
    """Whether its text says it; else its title does."""


def says(text: str, answer: str) -> bool:
    """Whether a text holds an answer, compared by normalised whole words.

    >>> says("She was born in Oslo, Norway.", "oslo"), says("Osloborg", "oslo")
    (True, False)
    """
    wanted = normalize_answer(answer)
    return bool(wanted) and f" {wanted} " in f" {normalize_answer(text)} "


def is_yes_no(question: Question) -> bool:
    """Whether the answer cannot stand in a document as such."""
    return any(normalize_answer(answer) in YES_NO for answer in question.golden_answers)


def search_turn(thought: str, query: str, documents: Sequence[Document]) -> Turn:
    """A turn that thinks, searches and is shown documents; the opening think tag is the prefill."""
    observation, shown = render_observation(documents, think_prefill=True)
    turn = _turn(thought, ActionKind.SEARCH, query)
    return replace(turn, documents=tuple(shown), observation=observation)


def answer_turn(thought: str, answer: str) -> Turn:
    """A turn that thinks and answers."""
    return _turn(thought, ActionKind.ANSWER, answer)


def _turn(thought: str, kind: ActionKind, content: str) -> Turn:
    thought, content = neutralise(thought), one_line(content)
    text = f"{thought}{THINK_CLOSE}\n<{kind}>{content}</{kind}>"
    return Turn(text=text, thinking=thought, action=Action(kind, content))


def one_line(text: str) -> str:
    """Harmless and on one line."""
    return " ".join(neutralise(text).split())


def demonstration(question: Question, turns: Sequence[Turn]) -> Trajectory:
    """A trajectory without token ids; its prompt is plain text (training renders it again for its model)."""
    prompt = render_prompt(question.text, template=SEARCH_PROMPT)
    return Trajectory(question=question, prompt=prompt, turns=tuple(turns), stop_reason=StopReason.ANSWER)


def demonstrate(question: Question, plan: Plan, *, rng: Random, max_searches: int) -> Demonstration:
    """Carry out a plan."""
    turns: list[Turn] = []
    seen: list[Document] = []
    thought = ""
    for number, hop in enumerate(plan.hops):
        if not is_known(hop, question, seen):
            return "an article that nothing leads to"
        templates = phrases.FIRST if number == 0 else phrases.NEXT
        thought = joined(thought, phrases.say(rng, templates, need=hop.need, question=question.text))
        evidence, queries = None, list(hop.queries)
        while evidence is None:
            if not queries or len(turns) >= max_searches:
                return "a hop that the retriever does not find"
            query = queries.pop(0)
            turn = search_turn(thought, query, (yield query))
            turns.append(turn)
            seen += turn.documents
            is_last = number == len(plan.hops) - 1
            evidence = evidence_for(hop, turn.documents, question=question, is_last=is_last, plan=plan)
            thought = phrases.say(rng, phrases.NOT_FOUND, need=hop.need) if evidence is None else ""
        thought = cite(hop, evidence, rng=rng, question=question)
    answer = final_answer(question, seen)
    if answer is None:
        return "no golden answer in what was found"
    if plan.kind == "comparison" and all(hop.answer for hop in plan.hops):
        facts = [phrases.say(rng, phrases.COMPARED, subject=hop.subject, value=hop.answer) for hop in plan.hops]
        thought = joined(thought, *facts)
    last = answer_turn(joined(thought, phrases.say(rng, phrases.LAST, answer=answer)), answer)
    return demonstration(question, [*turns, last])


def is_known(hop: Hop, question: Question, seen: Sequence[Document]) -> bool:
    """Whether the agent can know whom to ask about: the question or a document has named it."""
    if not hop.subject:
        return True
    texts = [question.text, *(f"{document.title} {document.text}" for document in seen)]
    return any(says(text, plain(hop.subject)) for text in texts)


def evidence_for(
    hop: Hop, documents: Sequence[Document], *, question: Question, is_last: bool, plan: Plan
) -> Evidence | None:
    """The document that answers a hop: the labelled one before others, its text before its title."""
    wanted = [hop.answer] if hop.answer else []
    if not wanted and plan.kind != "comparison" and is_last and not is_yes_no(question):
        wanted = list(question.golden_answers)
    numbered = sorted(enumerate(documents, start=1), key=lambda item: not is_labelled(hop, item[1]))
    for number, document in numbered:
        if not wanted:
            if is_labelled(hop, document):
                return Evidence(number, document, True)
            continue
        for text, in_text in ((document.text, True), (document.title, False)):
            if any(says(text, answer) for answer in wanted):
                return Evidence(number, document, in_text)
    return None


def is_labelled(hop: Hop, document: Document) -> bool:
    """Whether the question file names this document for the hop."""
    return document.id in hop.ids or bool(hop.title and document.title == hop.title)


def cite(hop: Hop, evidence: Evidence, *, rng: Random, question: Question) -> str:
    """What the agent says about the document that helped."""
    number, document, in_text = evidence
    if in_text:
        said = quoted(number, document, [hop.answer] if hop.answer else question.golden_answers, rng=rng)
    else:
        said = phrases.say(rng, phrases.IN_TITLE, number=number, title=document.title)
    if not hop.answer:
        return said
    return joined(said, phrases.say(rng, phrases.SO, need=hop.need, answer=hop.answer))


def quoted(number: int, document: Document, wanted: Sequence[str], *, rng: Random) -> str:
    """A document's sentence that holds one of the answers, with where it stands."""
    around = next((answer for answer in wanted if answer.lower() in document.text.lower()), "")
    sentence = phrases.quote(document.text, around=around).replace('"', "'")
    return phrases.say(rng, phrases.FOUND, number=number, title=document.title, sentence=sentence)


def final_answer(question: Question, seen: Sequence[Document]) -> str | None:
    """The first golden answer that the documents say; yes and no need no saying. None when there is none."""
    if is_yes_no(question):
        return next(answer for answer in question.golden_answers if normalize_answer(answer) in YES_NO)
    texts = [f"{document.title} {document.text}" for document in seen]
    return next((answer for answer in question.golden_answers if any(says(text, answer) for text in texts)), None)


def joined(*sentences: str) -> str:
    """Sentences with single spaces between them."""
    return " ".join(sentence for sentence in sentences if sentence)


def play_together(
    demonstrations: Iterable[Demonstration], *, retriever: Retriever, top_k: int
) -> Iterator[Trajectory | str]:
    """Run demonstrations side by side, their searches collected into calls of the retriever; results in order."""
    playing = list(demonstrations)
    results: dict[int, Trajectory | str] = {}
    found: dict[int, list[Document] | None] = dict.fromkeys(range(len(playing)))  # None starts a demonstration
    while found:
        queries: dict[int, str] = {}
        for number, documents in found.items():
            try:
                queries[number] = playing[number].send(documents)
            except StopIteration as end:
                results[number] = end.value
        found = {}
        asked = list(queries)
        for start in range(0, len(asked), QUERIES_AT_ONCE):
            part = asked[start : start + QUERIES_AT_ONCE]
            rows = retriever.search([queries[number] for number in part], top_k)
            found |= {number: [hit.document for hit in hits] for number, hits in zip(part, rows, strict=True)}
    yield from (results[number] for number in sorted(results))
