"""EM, CEM and F1."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.errors import DataError
from calibadv.rewards.answer_scores import cover_exact_match, exact_match, f1_score, normalize_answer

METRICS = (exact_match, cover_exact_match, f1_score)
WORDS = st.lists(st.sampled_from(["the", "a", "Oslo", "oslo", "city", "of", "x.", "-", "é"]), max_size=6).map(" ".join)


def test_case_articles_punctuation_and_space_do_not_count() -> None:
    assert exact_match(" The  Oslo. ", ["oslo"]) == 1.0
    assert normalize_answer("A.A. Smith, Mary-Ann") == "aa smith maryann"
    assert exact_match("Oslö", ["Oslo"]) == 0.0


def test_the_best_golden_answer_counts() -> None:
    assert exact_match("Oslo", ["Bergen", "Oslo"]) == 1.0
    assert f1_score("Oslo city", ["Bergen", "Oslo"]) == pytest.approx(2 / 3)


def test_cover_is_by_characters() -> None:
    assert cover_exact_match("unknown", ["no"]) == 1.0
    assert cover_exact_match("no", ["unknown"]) == 0.0


def test_repeated_words_count_as_often_as_both_sides_have_them() -> None:
    assert f1_score("x x y", ["x y y"]) == pytest.approx(2 / 3)


def test_two_empty_sides_match_exactly_but_have_no_f1() -> None:
    assert (exact_match("the", ["a"]), cover_exact_match("the", ["a"]), f1_score("the", ["a"])) == (1.0, 1.0, 0.0)


@settings(deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_scores_are_ordered_and_bounded(prediction: str, golden: list[str]) -> None:
    em, cem, f1 = (metric(prediction, golden) for metric in METRICS)
    assert em <= cem
    assert 0.0 <= f1 <= 1.0
    if em == 1.0 and normalize_answer(prediction):
        assert f1 == 1.0


@settings(deadline=None)
@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_the_order_of_golden_answers_does_not_matter(prediction: str, golden: list[str]) -> None:
    for metric in METRICS:
        assert metric(prediction, golden) == metric(prediction, golden[::-1])


@pytest.mark.parametrize("metric", METRICS)
def test_unusable_input_is_refused(metric: Any) -> None:
    with pytest.raises(DataError, match="no golden answers"):
        metric("x", [])
    with pytest.raises(DataError, match="golden answers must be text, got 5"):
        metric("x", ["y", 5])
    with pytest.raises(DataError, match="prediction must be text, got None"):
        metric(None, ["y"])
