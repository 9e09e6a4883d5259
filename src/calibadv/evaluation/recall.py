"""How much of what questions need a retriever finds: recall@k of answers, of supporting passages, of exact search.

*Answer recall@k*: a passage with a golden answer is among the first k. *All support@k*: every supporting passage is.
*Exact recall@k*: share of the k nearest documents that an approximate index finds, against search over all vectors.
The query is the question itself, so multi-hop questions score lower here than an agent with several searches can.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
from annotated_types import MinLen

from calibadv.config_class import Count, PositiveInt, config_class
from calibadv.data.questions import check_questions
from calibadv.errors import DataError
from calibadv.evaluation.evidence import NEVER, Evidence, PassageTexts, Ranks, evidence_of, ranks_of, title_key
from calibadv.retrieval.base import Retriever
from calibadv.trajectory import Document, Question

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all)."""
QUESTIONS_AT_ONCE = 256
NUM_EXACT = 500
_FIT = 0.9
"""Share of supporting ids that must carry their title for ids to be trusted."""


class _Documents(Protocol):
    def row_of(self, document_id: str, /) -> int | None: ...
    def __getitem__(self, row: int, /) -> Document: ...


@config_class()
class RecallConfig:
    """What is measured."""

    ks: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (3, 20)
    """How many hits count; each gets its own figure."""
    num_exact: Count = NUM_EXACT
    """Questions that are also searched exactly, when the index is approximate; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """The figures of one data set, or of ``all`` questions together; shares are per k."""

    name: str
    num_questions: int
    num_answers: int
    """Questions with an answer to look for: not yes or no."""
    answers: dict[int, float] = field(default_factory=dict)
    num_supports: int
    """Questions whose supporting passages are known."""
    supports: dict[int, float] = field(default_factory=dict)
    num_exact: int = 0
    """Questions that were also searched exactly."""
    exact: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one search by the question found."""

    question: Question
    evidence: Evidence
    ranks: Ranks


def measure_recall(
    questions: Sequence[Question],
    *,
    retriever: Retriever,
    config: RecallConfig | None = None,
    progress: Progress | None = None,
) -> list[Recall]:
    """Recall per data set, then over ``all`` when there are several."""
    config = config or RecallConfig()
    found = find_evidence(questions, retriever=retriever, k=max(config.ks), progress=progress)
    exact = _exact_shares(questions, retriever=retriever, config=config)
    names = list(dict.fromkeys(question.dataset for question in questions))
    groups = {name: [f for f in found if f.question.dataset == name] for name in names}
    if len(names) > 1:
        groups["all"] = found
    return [_summarise(name, group, exact=exact, config=config) for name, group in groups.items()]


def find_evidence(
    questions: Sequence[Question], *, retriever: Retriever, k: int, progress: Progress | None = None
) -> list[Found]:
    """Search every question and say where in the first ``k`` hits its evidence is."""
    check_questions(questions)
    use_ids = supporting_ids_fit(questions, corpus=getattr(retriever, "corpus", None))
    texts = PassageTexts()
    found: list[Found] = []
    for start in range(0, len(questions), QUESTIONS_AT_ONCE):
        batch = questions[start : start + QUESTIONS_AT_ONCE]
        for question, hits in zip(batch, retriever.search([q.text for q in batch], k), strict=True):
            evidence = evidence_of(question, use_ids=use_ids)
            found.append(Found(question=question, evidence=evidence, ranks=ranks_of(evidence, hits, texts=texts)))
        if progress is not None:
            progress(len(found), len(questions))
    return found


def supporting_ids_fit(questions: Sequence[Question], *, corpus: Any) -> bool:
    """Whether ``supporting_ids`` are ids of this corpus: they carry the supporting titles there.

    Ids mean something in the corpus that they were written for only; elsewhere passages are matched by title.
    """
    if corpus is None or not hasattr(corpus, "row_of"):
        return True
    documents: _Documents = corpus
    checked = fitting = 0
    for question in questions:
        evidence = evidence_of(question)
        if len(evidence.ids) != len(evidence.titles):
            continue
        for title, ids in zip(evidence.titles, evidence.ids, strict=True):
            for document_id in sorted(ids)[:1]:
                row = documents.row_of(document_id)
                checked += 1
                fitting += row is not None and title_key(documents[row].title) == title_key(title)
        if checked >= 1000:
            break
    if checked and fitting < _FIT * checked:
        logger.warning(
            "metadata.supporting_ids belong to another corpus (%d of %d carry their title here): supporting passages "
            "are matched by title instead",
            fitting,
            checked,
        )
        return False
    return True


def _exact_shares(questions: Sequence[Question], *, retriever: Any, config: RecallConfig) -> dict[int, list[Any]]:
    """Per k, (question, share of the exact hits that were found) of a spread of the questions; {} where it is exact."""
    if config.num_exact == 0 or getattr(retriever, "is_exact", True):
        return {}
    rows = np.unique(np.linspace(0, len(questions) - 1, num=min(config.num_exact, len(questions)), dtype=int))
    shares: dict[int, list[Any]] = {k: [] for k in config.ks}
    for start in range(0, len(rows), QUESTIONS_AT_ONCE):
        batch = [questions[row] for row in rows[start : start + QUESTIONS_AT_ONCE]]
        queries = [question.text for question in batch]
        try:
            nearest = retriever.search_exact(queries, max(config.ks))
        except DataError as error:  # its vectors were not kept
            logger.warning("no recall against exact search: %s", error)
            return {}
        near = retriever.search(queries, max(config.ks))
        for question, got, wanted in zip(batch, near, nearest, strict=True):
            for k in config.ks:
                ids = {hit.document.id for hit in wanted[:k]}
                shares[k].append((question, len(ids & {hit.document.id for hit in got[:k]}) / max(len(ids), 1)))
    return shares


def _summarise(name: str, found: Sequence[Found], *, exact: dict[int, list[Any]], config: RecallConfig) -> Recall:
    answers = np.array([f.ranks.answer for f in found if f.evidence.searchable])
    supports = np.array([f.ranks.support for f in found if f.evidence.ids or f.evidence.titles])
    asked = {(f.question.dataset, f.question.id) for f in found}
    shares = {k: [share for q, share in pairs if (q.dataset, q.id) in asked] for k, pairs in exact.items()}
    return Recall(
        name=name,
        num_questions=len(found),
        num_answers=len(answers),
        answers={k: float(np.mean(answers <= min(k, NEVER - 1))) for k in config.ks if len(answers)},
        num_supports=len(supports),
        supports={k: float(np.mean(supports <= min(k, NEVER - 1))) for k in config.ks if len(supports)},
        num_exact=max((len(values) for values in shares.values()), default=0),
        exact={k: float(np.mean(values)) for k, values in shares.items() if values},
    )
