"""Can these questions be answered from this corpus at all? One pass over every document, whatever the retriever finds.

A question is *unanswerable* here when no golden answer occurs in any document: no retriever and no policy can answer it
from this corpus. That a string occurs somewhere does not mean that the passage answers the question, so the shares are
upper bounds, loose ones for years and common words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calibadv.data.questions import check_questions
from calibadv.evaluation.evidence import NEVER, Evidence, evidence_of, holds, padded, passage_words, title_key
from calibadv.evaluation.recall import Found
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.trajectory import Document, Question

Progress = Callable[[int, int], None]
"""Called with (documents read, documents in all)."""
DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusScan:
    """What a pass over the documents found of all that the questions need."""

    num_documents: int
    answers: dict[str, str]
    """Golden answer (as `plain_words`) -> id of the first document that holds it; absent: in no document."""
    titles: frozenset[str]
    """Supporting titles (as `title_key`) that some document has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The figures of one data set, or of ``all`` questions together. Shares are None where nothing can be counted."""

    name: str
    num_questions: int
    num_yes_no: int
    """Questions answered by yes or no; in none of the shares of answers."""
    num_answers: int
    """Questions with an answer to look for."""
    answer_in_corpus: float | None
    answer_in_top_k: float | None
    """Among the first k hits of the question as query; None without an index."""
    num_titles: int
    """Questions whose supporting titles are known."""
    titles_in_corpus: float | None
    """Share with a document for every supporting title."""
    support_in_top_k: float | None
    num_unanswerable: int
    """Questions whose answer is in no document."""
    unanswerable: tuple[str, ...] = ()
    """Their ids; listed per data set only, where ids are unique."""
    missing_titles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Question id -> its supporting titles that no document has; listed per data set only."""


class AnswerScan:
    """Which of many answers occur in a stream of documents; an answer that was found is not looked for again.

    Each answer waits under the one of its words that is rarest in ``sample``, so a document costs one intersection of
    sets and, for the few answers whose rare word it has, a substring search.

    >>> scan = AnswerScan(["ada lovelace", "engine", "charles babbage"])
    >>> scan.read(Document(id="7", title="Ada Lovelace", text="She saw the engine of Babbage."))
    >>> sorted(scan.found.items())
    [('ada lovelace', '7'), ('engine', '7')]
    """

    def __init__(self, answers: Iterable[str], *, sample: Iterable[Document] = ()) -> None:
        self.found: dict[str, str] = {}
        """Answer -> id of the first document that holds it."""
        frequency: Counter[str] = Counter()
        for document in sample:
            frequency.update(set(passage_words(document)))
        self._waiting: defaultdict[str, list[str]] = defaultdict(list)
        for answer in dict.fromkeys(answers):
            rarest = min(answer.split(), key=lambda word: (frequency[word], -len(word)))
            self._waiting[rarest].append(answer)
        self._words = set(self._waiting)

    def read(self, document: Document) -> None:
        """Look for every answer that is still missing."""
        words = passage_words(document)
        candidates = self._words.intersection(words)
        if not candidates:
            return
        passage = padded(words)
        for word in candidates:
            here = [answer for answer in self._waiting[word] if holds(passage, [answer])]
            if not here:
                continue
            self.found.update(dict.fromkeys(here, document.id))
            self._waiting[word] = [answer for answer in self._waiting[word] if answer not in here]
            if not self._waiting[word]:
                self._words.remove(word)


def scan_corpus(questions: Sequence[Question], *, corpus: Corpus, progress: Progress | None = None) -> CorpusScan:
    """Read every document once, a batch at a time; memory depends on the questions, not on the corpus."""
    check_questions(questions)
    needs = [evidence_of(question) for question in questions]
    answers = [answer for need in needs if need.searchable for answer in need.answers]
    scan: AnswerScan | None = None
    wanted = {title_key(title) for need in needs for title in need.titles}
    seen: set[str] = set()
    done = 0
    for documents in corpus.iter_batches(DOCUMENTS_AT_ONCE):
        scan = scan or AnswerScan(answers, sample=documents)
        for document in documents:
            scan.read(document)
        seen |= wanted.intersection(title_key(document.title) for document in documents)
        done += len(documents)
        if progress is not None:
            progress(done, len(corpus))
    return CorpusScan(num_documents=done, answers=scan.found if scan else {}, titles=frozenset(seen))


def measure_coverage(
    questions: Sequence[Question], *, scan: CorpusScan, found: Sequence[Found] | None = None, k: int = 20
) -> list[Coverage]:
    """Coverage per data set, then over ``all`` when there are several.

    ``found`` comes from `recall.find_evidence` with at least ``k`` hits; without it, what is within top k is left open.
    """
    needs = [evidence_of(question) for question in questions]
    names = list(dict.fromkeys(question.dataset for question in questions))
    finds: Sequence[Found | None] = [None] * len(questions) if found is None else found
    cases = [_Case(q, need, f) for q, need, f in zip(questions, needs, finds, strict=True)]
    rows = [_summarise(name, [c for c in cases if c.question.dataset == name], scan=scan, k=k) for name in names]
    if len(names) < 2:
        return rows
    return [*rows, replace(_summarise("all", cases, scan=scan, k=k), unanswerable=(), missing_titles={})]


@dataclass(frozen=True, slots=True)
class _Case:
    question: Question
    need: Evidence
    found: Found | None


def _summarise(name: str, cases: Sequence[_Case], *, scan: CorpusScan, k: int) -> Coverage:
    searchable = [case for case in cases if case.need.searchable]
    answered = [any(answer in scan.answers for answer in case.need.answers) for case in searchable]
    k = min(k, NEVER - 1)  # what was not found is within no k
    titled = [case for case in cases if case.need.titles]
    missing = [[t for t in case.need.titles if title_key(t) not in scan.titles] for case in titled]
    return Coverage(
        name=name,
        num_questions=len(cases),
        num_yes_no=sum(case.need.yes_no for case in cases),
        num_answers=len(searchable),
        answer_in_corpus=_mean(answered),
        answer_in_top_k=_mean(case.found.ranks.answer <= k for case in searchable if case.found is not None),
        num_titles=len(titled),
        titles_in_corpus=_mean(not titles for titles in missing),
        support_in_top_k=_mean(case.found.ranks.support <= k for case in titled if case.found is not None),
        num_unanswerable=answered.count(False),
        unanswerable=tuple(c.question.id for c, there in zip(searchable, answered, strict=True) if not there),
        missing_titles={c.question.id: tuple(titles) for c, titles in zip(titled, missing, strict=True) if titles},
    )


def _mean(values: Iterable[Any]) -> float | None:
    flags = list(values)
    return float(np.mean(flags)) if flags else None
