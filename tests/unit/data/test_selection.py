"""Which questions are kept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.data.config import draw
from calibadv.data.prepare.selection import Known, parse_weights, repeated, shares, text_key, without_duplicates
from calibadv.errors import ConfigError
from calibadv.trajectory import Question


def question(id: object, text: str = "Who?", dataset: str = "nq") -> Question:
    return Question(id=str(id), text=text, golden_answers=("a",), dataset=dataset)


def test_questions_with_the_same_words_are_the_same() -> None:
    assert text_key("Who wrote  'The Hobbit'?") == text_key("who wrote hobbit")
    assert text_key("Who wrote it?") != text_key("Who wrote them?")


def test_a_training_question_that_a_test_asks_is_removed_wherever_it_comes_from() -> None:
    known = Known()
    known.add([question("t1", "Who wrote The Hobbit?", "popqa"), question("5ab", "Where is Oslo?", "hotpotqa")])
    kept, removed = without_duplicates(
        [
            question("1", "who wrote the hobbit"),
            question("2", "Who wrote Dune?"),
            question("5ab", "Where does Oslo lie?", "hotpotqa"),
            question("5ab", "When was Oslo founded?", "nq"),
            question("3", "WHO WROTE DUNE"),
        ],
        known=known,
    )
    assert [(q.dataset, q.id) for q in kept] == [("nq", "2"), ("nq", "5ab")]
    assert [(r.reason, r.other) for r in removed] == [
        ("same text as a test question", "popqa/t1"),
        ("same id as a test question", "hotpotqa/5ab"),
        ("repeated", "nq/2"),
    ]


def test_an_id_that_only_counts_rows_is_no_identity() -> None:
    known = Known()
    known.add([question("17", "What?")])
    assert without_duplicates([question("17", "Where?")], known=known)[1] == []


def test_repeated_test_questions_are_found() -> None:
    assert repeated([question(1, "Who?"), question(2, "who"), question(3, "What?")]) == [("nq/2", "nq/1")]


def test_a_draw_is_seeded_in_order_and_independent_of_other_questions() -> None:
    questions = [question(i, f"q {i}") for i in range(50)]
    first = draw(questions, limit=10, seed=1)
    assert first == draw(questions, limit=10, seed=1)
    assert [int(q.id) for q in first] == sorted(int(q.id) for q in first)
    assert first != draw(questions, limit=10, seed=2)
    assert draw(questions, limit=99, seed=1) == questions


@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 500), st.floats(0.1, 10)), min_size=1),
    st.integers(1, 400),
)
def test_a_mixture_has_the_size_and_the_shares_that_were_asked_for(parts: Any, limit: Any) -> None:
    counts = {name: count for name, (count, _) in parts.items()}
    weights = {name: weight for name, (_, weight) in parts.items()}
    largest = shares(counts, weights=weights, limit=None)
    assert all(0 <= largest[name] <= counts[name] for name in counts)
    try:
        taken = shares(counts, weights=weights, limit=limit)
    except ConfigError:
        return
    assert sum(taken.values()) == limit
    total = sum(weights.values())
    assert all(abs(taken[name] - limit * weights[name] / total) < 1 for name in counts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "give one weight per data set, 2 in all"),
        ("nq=1,hotpotqa", "give one weight per data set"),
        ("nq=1,musique=1", "must weigh each of nq, hotpotqa once"),
        ("nq=1,nq=1", "must weigh each of nq, hotpotqa once"),
        ("1,x", "'x' is not a number"),
        ("1,0", "weights must be > 0, got 0"),
        ("1,inf", "weights must be > 0, got inf"),
    ],
)
def test_weights_are_checked(text: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_weights(text, names=["nq", "hotpotqa"])


def test_spelling_variants_of_a_text_are_the_same_question() -> None:
    assert text_key("Who\u2019s the author of \u201cCafe\u0301\u201d?") == text_key("who's author of caf\u00e9")
    assert text_key("the war of 1939\u201345") == text_key("War of 1939-45")
    assert text_key("\uff37\uff48\uff4f wrote it\uff1f") == text_key("who wrote it")
    assert text_key("stra\u00dfe") == text_key("STRASSE")
    assert text_key("5 + 3") != text_key("5 \u00d7 3")


def test_texts_that_are_nothing_but_punctuation_are_not_all_the_same() -> None:
    assert text_key("???") != text_key("the")


@pytest.mark.parametrize("id", ["row_3", "train_17", "q12"])
def test_an_id_that_numbers_rows_behind_a_word_is_no_identity(id: Any) -> None:
    known = Known()
    known.add([question(id, "One thing?")])
    kept, _ = without_duplicates([question(id, "Another thing?")], known=known)
    assert len(kept) == 1
