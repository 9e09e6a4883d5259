"""Recall of answers, of supporting passages and of exact search, on corpora small enough to count by hand."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.evaluation.evidence import NEVER, evidence_of, holds, padded, plain_words, raw_words, title_key
from calibadv.evaluation.recall import RecallConfig, find_evidence, measure_recall
from calibadv.retrieval import Corpus, ListRetriever
from calibadv.retrieval.base import Hit
from calibadv.trajectory import Document, Question

PASSAGES = [
    Document(id="1", title="Oslo", text="Oslo's harbour; capital of Norway (1814-1905 under Sweden)."),
    Document(id="2", title="Bergen", text="A rainy city."),
    Document(id="3", title="Ada Lovelace", text="She wrote programs with Babbage."),
    Document(id="4", title="Ada Lovelace", text="Her mother was Anne."),
]
BY_ID = {document.id: document for document in PASSAGES}


def question(number: int, *answers: str, dataset: str = "geo", **metadata: Any) -> Question:
    return Question(
        id=str(number), text=f"question {number}", golden_answers=answers, dataset=dataset, metadata=metadata
    )


def found_by(**orders: list[str]) -> ListRetriever:
    """A retriever that finds for "question N" the passages whose ids are given."""
    return ListRetriever({f"question {n[1:]}": [BY_ID[i] for i in order] for n, order in orders.items()})


@pytest.mark.parametrize(
    ("answer", "passage", "expected"),
    [
        ("Oslo", PASSAGES[0], True),
        ("the oslo", PASSAGES[0], True),
        ("1905", PASSAGES[0], True),
        ("Capital of Norway", PASSAGES[0], True),
        ("way", PASSAGES[0], False),
        ("Oslo Oslo", PASSAGES[0], False),  # the title and the text are no sentence
        ("U.S.", Document(id="x", title="", text="in the U.S. army"), True),
        ("São Paulo", Document(id="x", title="", text="lived in São Paulo."), True),
        ("Sao Paulo", Document(id="x", title="", text="lived in São Paulo."), False),
        ("Sa\u0303o Paulo", Document(id="x", title="", text="lived in São Paulo."), True),  # composed or not
        ("São Paulo", Document(id="x", title="Sa\u0303o Paulo", text="A city."), True),
        ("lighthouse", Document(id="x", title="", text="a light\u00adhouse"), True),
    ],
)
def test_an_answer_counts_as_whole_words_in_title_or_text(answer: str, passage: Document, expected: bool) -> None:
    asked = question(1, answer)
    found = find_evidence([asked], retriever=ListRetriever([passage]), k=1)
    assert (found[0].ranks.answer == 1) is expected


def test_what_is_not_found_is_within_no_k() -> None:
    (row,) = measure_recall(
        [question(1, "Stockholm", supporting_titles=["Stockholm"])],
        retriever=found_by(q1=["1", "2"]),
        config=RecallConfig(ks=(10**9, 10**12)),
    )
    assert row.answers == row.supports == {10**9: 0.0, 10**12: 0.0}


def test_titles_match_with_accents_composed_or_not() -> None:
    assert title_key("Kaka\u0301") == title_key("Kak\u00e1")


def test_recall_counts_the_questions_whose_answer_is_among_the_first_k() -> None:
    questions = [question(1, "rainy"), question(2, "Norway"), question(3, "Babbage", "Byron"), question(4, "nowhere")]
    retriever = found_by(q1=["1", "2"], q2=["1"], q3=["1", "2", "4", "3"], q4=["1"])
    (row,) = measure_recall(questions, retriever=retriever, config=RecallConfig(ks=(1, 2, 4)))
    assert (row.name, row.num_questions, row.num_answers) == ("geo", 4, 4)
    assert row.answers == {1: 0.25, 2: 0.5, 4: 0.75}
    assert (row.num_supports, row.supports, row.num_exact, row.exact) == (0, {}, 0, {})


def test_yes_no_questions_and_answers_without_words_are_left_out() -> None:
    questions = [question(1, "Yes"), question(2, "no.", "No"), question(3, "?!"), question(4, "yes", "rainy")]
    retriever = ListRetriever([Document(id="9", title="no", text="yes ?!")])
    (row,) = measure_recall(questions, retriever=retriever)
    assert (row.num_questions, row.num_answers, row.answers) == (4, 1, {3: 1.0, 20: 1.0})
    assert evidence_of(questions[0]).yes_no
    assert not evidence_of(questions[2]).yes_no
    assert not evidence_of(questions[2]).searchable


def test_every_supporting_title_needs_one_of_its_passages() -> None:
    names: dict[str, Any] = {"supporting_titles": ["Oslo", "Ada Lovelace"], "supporting_ids": [["1"], ["3", "4"]]}
    questions = [question(1, "x", **names), question(2, "x", **names), question(3, "x", **names), question(4, "x")]
    retriever = found_by(q1=["1", "4"], q2=["1", "2", "3"], q3=["3", "4"])
    (row,) = measure_recall(questions, retriever=retriever, config=RecallConfig(ks=(2, 3)))
    assert (row.num_supports, row.supports) == (3, {2: 1 / 3, 3: 2 / 3})


def test_supporting_passages_are_matched_by_title_where_no_ids_are_given() -> None:
    facts = {"title": ["Ada_Lovelace", '"Oslo"', "Ada_Lovelace"], "sent_id": [0, 1, 2]}
    questions = [question(1, "x", supporting_facts=facts), question(2, "x", supporting_titles=None)]
    found = find_evidence(questions, retriever=found_by(q1=["2", "4", "1"]), k=3)
    assert [f.ranks.support for f in found] == [3, NEVER]
    assert evidence_of(questions[0]).titles == ("Ada_Lovelace", '"Oslo"')


def test_ids_of_another_corpus_are_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    metadata: dict[str, Any] = {"supporting_titles": ["Oslo"], "supporting_ids": [["3"]]}  # 3 is Ada Lovelace here
    retriever: Any = found_by(q1=["3", "1"])
    retriever.corpus = Corpus.from_documents(PASSAGES)
    with caplog.at_level(logging.WARNING):
        (found,) = find_evidence([question(1, "x", **metadata)], retriever=retriever, k=2)
    assert found.ranks.support == 2
    assert "belong to another corpus (0 of 1 carry their title here)" in caplog.text


def test_data_sets_have_rows_of_their_own_and_one_together() -> None:
    questions = [question(1, "rainy", dataset="a"), question(1, "Norway", dataset="b"), question(2, "x", dataset="b")]
    retriever = ListRetriever([PASSAGES[1]])
    rows = {row.name: row for row in measure_recall(questions, retriever=retriever, config=RecallConfig(ks=(1,)))}
    assert list(rows) == ["a", "b", "all"]
    assert rows["a"].answers == {1: 1.0}
    assert rows["b"].answers == {1: 0.0}
    assert rows["all"].answers == {1: pytest.approx(1 / 3)}
    assert rows["all"].num_questions == 3


class Approximate(ListRetriever):
    """Finds the first passages; the exact search finds them in another order."""

    is_exact = False

    def search_exact(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(document, 1.0) for document in list(reversed(PASSAGES))[:k]] for _ in queries]


def test_recall_against_exact_search_is_the_share_of_its_hits_that_were_found() -> None:
    questions = [question(1, "x", dataset="a"), question(2, "x", dataset="b")]
    rows = measure_recall(questions, retriever=Approximate(PASSAGES), config=RecallConfig(ks=(3, 4)))
    assert [row.num_exact for row in rows] == [1, 1, 2]
    assert rows[-1].exact == {3: pytest.approx(2 / 3), 4: 1.0}


def test_exact_kinds_and_zero_questions_skip_the_exact_search() -> None:
    exact = Approximate(PASSAGES)
    exact.is_exact = True
    for retriever, num_exact in ((exact, 5), (Approximate(PASSAGES), 0)):
        (row,) = measure_recall([question(1, "x")], retriever=retriever, config=RecallConfig(num_exact=num_exact))
        assert row.num_exact == 0


def test_an_index_without_its_vectors_is_measured_without_exact_search(caplog: pytest.LogCaptureFixture) -> None:
    class WithoutVectors(Approximate):
        def search_exact(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise DataError("its vectors were not kept")

    (row,) = measure_recall([question(1, "rainy")], retriever=WithoutVectors(PASSAGES))
    assert (row.answers[3], row.exact) == (1.0, {})
    assert "its vectors were not kept" in caplog.text


def test_progress_is_told_and_a_failed_search_ends_the_measurement() -> None:
    told = []
    questions = [question(i, "x") for i in range(300)]
    measure_recall(questions, retriever=ListRetriever(PASSAGES), progress=lambda *p: told.append(p))
    assert told == [(256, 300), (300, 300)]
    with pytest.raises(RetrieverError):
        measure_recall(questions, retriever=ListRetriever(PASSAGES, fail_first=9))


def test_wrong_settings_and_metadata_are_named() -> None:
    with pytest.raises(ConfigError, match="ks must not be empty"):
        RecallConfig(ks=())
    with pytest.raises(ConfigError, match=r"ks must be >= 1, got \[0\]"):
        RecallConfig(ks=(0,))
    with pytest.raises(ConfigError, match="num_exact must be >= 0"):
        RecallConfig(num_exact=-1)
    with pytest.raises(DataError, match=r"question '1': metadata\.supporting_ids must be a list, got 7"):
        evidence_of(question(1, "x", supporting_ids=7))
    with pytest.raises(DataError, match=r"question '1': metadata\.supporting_titles must hold text"):
        evidence_of(question(1, "x", supporting_titles=[None]))
    assert evidence_of(question(1, "x", supporting_ids=[7, ["8", 9]])).ids == (frozenset({"7"}), frozenset({"8", "9"}))


def test_titles_are_compared_without_case_quotes_and_underscores() -> None:
    assert title_key('""Ada_Lovelace""') == title_key(" ADA  lovelace")


@given(st.lists(st.sampled_from(["oslo", "the", "a", "1905", "x", "naïve"])), st.lists(st.sampled_from(["oslo", "x"])))
def test_an_answer_is_found_in_every_text_that_was_made_around_it(around: list[str], answer: list[str]) -> None:
    text = " ".join([*around, *answer, *around])
    assert not answer or holds(padded(raw_words(text)), [plain_words("-".join(answer))])
