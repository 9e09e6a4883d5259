"""Which questions a corpus can answer at all, and how fast that is found out."""

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.errors import DataError
from calibadv.evaluation.coverage import AnswerScan, measure_coverage, scan_corpus
from calibadv.evaluation.evidence import holds, padded, passage_words
from calibadv.evaluation.recall import find_evidence
from calibadv.retrieval import Corpus, ListRetriever
from calibadv.trajectory import Document, Question

DOCUMENTS = [
    Document(id="1", title="Oslo", text="Oslo is the capital of Norway."),
    Document(id="2", title="Bergen", text="A rainy city."),
    Document(id="3", title="Ada Lovelace", text="She wrote programs."),
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.from_documents(DOCUMENTS, name="small")


def question(number: int, *answers: str, dataset: str = "geo", titles: list[str] | None = None) -> Question:
    metadata = {} if titles is None else {"supporting_titles": titles}
    return Question(
        id=str(number), text=f"question {number}", golden_answers=answers, dataset=dataset, metadata=metadata
    )


def coverage(questions: Sequence[Question], corpus: Corpus, **settings: Any) -> Any:
    return {
        row.name: row for row in measure_coverage(questions, scan=scan_corpus(questions, corpus=corpus), **settings)
    }


def test_questions_without_an_answer_in_any_document_are_listed(corpus: Corpus) -> None:
    questions = [question(1, "Norway"), question(2, "Sweden"), question(3, "Denmark", "RAINY"), question(4, "rain")]
    row = coverage(questions, corpus)["geo"]
    assert (row.num_questions, row.num_answers, row.answer_in_corpus) == (4, 4, 0.5)
    assert (row.num_unanswerable, row.unanswerable) == (2, ("2", "4"))
    assert row.answer_in_top_k is None


def test_yes_no_questions_are_counted_apart(corpus: Corpus) -> None:
    row = coverage([question(1, "yes"), question(2, "No"), question(3, "Norway")], corpus)["geo"]
    assert (row.num_questions, row.num_yes_no, row.num_answers, row.answer_in_corpus) == (3, 2, 1, 1.0)
    assert row.unanswerable == ()
    only = coverage([question(1, "yes")], corpus)["geo"]
    assert (only.num_answers, only.answer_in_corpus) == (0, None)


def test_supporting_titles_without_an_article_are_listed(corpus: Corpus) -> None:
    questions = [
        question(1, "Norway", titles=["Oslo", "bergen"]),
        question(2, "Norway", titles=["Oslo", "Stockholm", "Malmö"]),
        question(3, "Norway"),
    ]
    row = coverage(questions, corpus)["geo"]
    assert (row.num_titles, row.titles_in_corpus) == (2, 0.5)
    assert row.missing_titles == {"2": ("Stockholm", "Malmö")}


def test_within_top_k_comes_from_the_searches(corpus: Corpus) -> None:
    questions = [question(1, "Norway", titles=["Oslo"]), question(2, "programs", titles=["Ada Lovelace"])]
    found = find_evidence(questions, retriever=ListRetriever(DOCUMENTS), k=3)
    row = coverage(questions, corpus, found=found, k=2)["geo"]
    assert (row.answer_in_corpus, row.answer_in_top_k) == (1.0, 0.5)
    assert (row.titles_in_corpus, row.support_in_top_k) == (1.0, 0.5)


def test_ids_are_listed_per_data_set_and_figures_for_all(corpus: Corpus) -> None:
    questions = [question(1, "Sweden", dataset="a"), question(1, "Norway", dataset="b"), question(2, "x", dataset="b")]
    rows = coverage(questions, corpus)
    assert [(name, row.num_unanswerable, row.unanswerable) for name, row in rows.items()] == [
        ("a", 1, ("1",)),
        ("b", 1, ("2",)),
        ("all", 2, ()),
    ]
    assert rows["all"].answer_in_corpus == pytest.approx(1 / 3)


def test_an_answer_is_attributed_to_the_first_document_that_holds_it(corpus: Corpus) -> None:
    scan = scan_corpus([question(1, "Oslo", "capital of norway", "nowhere")], corpus=corpus)
    assert scan.answers == {"oslo": "1", "capital of norway": "1"}
    assert scan.num_documents == 3


def test_progress_is_told(corpus: Corpus) -> None:
    told = []
    scan_corpus([question(1, "x")], corpus=corpus, progress=lambda *p: told.append(p))
    assert told == [(3, 3)]


def test_no_questions_are_an_error(corpus: Corpus) -> None:
    with pytest.raises(DataError, match="no questions"):
        scan_corpus([], corpus=corpus)


words = st.sampled_from(["the", "a", "oslo", "norway", "city", "of", "x", "é"])
texts = st.lists(words, min_size=1, max_size=8).map(" ".join)


@given(st.lists(texts, max_size=12), st.lists(texts, max_size=12), st.integers(0, 12))
def test_the_scan_finds_exactly_what_a_plain_search_finds(texts: list[str], wanted: list[str], sampled: int) -> None:
    documents = [Document(id=str(row), title="", text=text) for row, text in enumerate(texts)]
    answers = [words for text in wanted if (words := padded(text.split()).strip())]
    scan = AnswerScan(answers, sample=documents[:sampled])
    for document in documents:
        scan.read(document)
    first = {
        answer: next((d.id for d in documents if holds(padded(passage_words(d)), [answer])), None) for answer in answers
    }
    assert scan.found == {answer: row for answer, row in first.items() if row is not None}


def test_memory_depends_on_the_questions_and_not_on_the_corpus() -> None:
    class Stream(Corpus):
        def __init__(self) -> None:
            """Without documents in memory: they are made as they are read."""

        def __len__(self) -> int:
            return 12_000

        def iter_batches(self, size: int, start: int = 0) -> Iterator[list[Document]]:
            for first in range(start, len(self), size):
                yield [Document(id=str(i), title=f"T{i}", text=f"text {i} " * 20) for i in range(first, first + size)]

    tracemalloc.start()
    scan = scan_corpus([question(1, "11999"), question(2, "nowhere")], corpus=Stream())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scan.answers == {"11999": "11999"}
    assert peak < 8_000_000  # one batch; all documents would be 25 MB
