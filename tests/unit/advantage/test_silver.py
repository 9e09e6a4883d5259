"""Silver documents and query correctness, on groups worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.advantage import (
    TrajectoryEvidence,
    TurnEvidence,
    query_correctness,
    silver_documents,
    turn_correctness,
    word_similarity,
)
from calibadv.errors import ConfigError, DataError
from calibadv.trajectory import Action, ActionKind, Document, Question, StopReason, Trajectory, Turn

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=12)


def found(*document_lists: str, score: float = 1.0, valid: bool = True) -> TrajectoryEvidence:
    """A trajectory whose search turns retrieved these documents, "a b" for two, with thinking of its own each."""
    turns = [TurnEvidence(f"thought {'x' * k}", tuple(docs.split())) for k, docs in enumerate(document_lists)]
    return TrajectoryEvidence(turns=(*turns, TurnEvidence("so", ())), score=score, format_valid=valid)


def correctness(*document_lists: str, silver: str, variant: str = "share") -> list[float]:
    weights = {name: silver.split().count(name) for name in silver.split()}
    return turn_correctness(found(*document_lists).turns[:-1], silver=weights, variant=variant)  # type: ignore[arg-type]


def table_distance(a: list[str], b: list[str]) -> int:
    """Edit distance by the textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


# Silver documents.


def test_silver_documents_are_counted_once_per_best_trajectory() -> None:
    assert silver_documents([found("a b", "b"), found("b c"), found("z", score=0.9)]) == {"a": 1, "b": 2, "c": 1}


def test_only_the_highest_score_is_best() -> None:
    assert silver_documents([found("a", score=0.889), found("b", score=0.875)]) == {"a": 1}


def test_the_threshold_is_inclusive() -> None:
    assert silver_documents([found("a", score=0.7)]) == {"a": 1}
    assert silver_documents([found("a", score=0.69)]) == {}
    assert silver_documents([found("a", score=0.69)], threshold=0.5) == {"a": 1}


def test_an_invalid_trajectory_gives_no_silver_documents_and_does_not_raise_the_bar() -> None:
    assert silver_documents([found("a", score=1.0, valid=False), found("b", score=0.8)]) == {"b": 1}


def test_best_trajectories_without_documents_give_no_silver_documents() -> None:
    assert silver_documents([found(""), found("a", score=0.0)]) == {}
    assert silver_documents([]) == {}


# Query correctness of a trajectory.


def test_correctness_is_the_share_of_silver_documents() -> None:
    assert correctness("a b x y", silver="a b c") == [0.5]


def test_a_document_counts_only_where_the_trajectory_sees_it_first() -> None:
    assert correctness("a x", "a b", "b z", silver="a b") == [0.5, 0.5, 0.0]


def test_a_document_shown_twice_counts_once_but_divides_twice() -> None:
    assert correctness("a a x", silver="a") == [pytest.approx(1 / 3)]


def test_sharing_two_documents_with_an_earlier_turn_is_a_repetition() -> None:
    assert correctness("x y", "x y a", silver="a") == [0.0, 0.0]
    assert correctness("x y", "x z a", silver="a") == [0.0, pytest.approx(1 / 3)]


def test_one_document_shared_with_each_of_two_turns_is_no_repetition() -> None:
    assert correctness("x", "y", "x y a", silver="a") == [0.0, 0.0, pytest.approx(1 / 3)]


def test_thinking_more_than_half_similar_is_a_repetition_and_exactly_half_is_not() -> None:
    def second(thinking: str) -> float:
        turns = [TurnEvidence("one two three four", ("x",)), TurnEvidence(thinking, ("a",))]
        return turn_correctness(turns, silver={"a": 1})[1]

    assert second("one two three five") == 0.0
    assert second("one two five six") == 1.0
    assert second("four three two one") == 1.0  # The same words in another order.


def test_repeating_any_earlier_turn_counts_not_only_the_last() -> None:
    turns = [TurnEvidence("one two", ("x",)), TurnEvidence("other words", ("y",)), TurnEvidence("one two", ("a",))]
    assert turn_correctness(turns, silver={"a": 1}) == [0.0, 0.0, 0.0]


def test_empty_thinking_is_never_a_repetition() -> None:
    assert turn_correctness([TurnEvidence("", ("x",)), TurnEvidence(" ", ("a",))], silver={"a": 1}) == [0.0, 1.0]


def test_a_turn_without_documents_has_correctness_zero() -> None:
    assert correctness("", "a", silver="a") == [0.0, 1.0]
    assert turn_correctness([], silver={"a": 1}) == []


def test_the_weighted_variants_use_how_often_a_document_is_silver() -> None:
    silver = "a b b b c c"  # a once, b three times, c twice
    assert correctness("a c x y", silver=silver, variant="max") == [pytest.approx(2 / 3)]
    assert correctness("a c x y", silver=silver, variant="mean") == [pytest.approx((1 / 3 + 2 / 3) / 4)]
    assert correctness("x", silver=silver, variant="max") == [0.0]


# Word similarity.


def test_similarity_of_hand_worked_pairs() -> None:
    assert word_similarity("", "") == 0.0
    assert word_similarity("one", "") == 0.0
    assert word_similarity("one  two\nthree", "one two three") == 1.0
    assert word_similarity("One two", "one two") == 0.5
    assert word_similarity("a b c d", "b c d e") == 0.5


@settings(deadline=None)
@given(WORDS, WORDS)
def test_similarity_equals_the_textbook_table(a: list[str], b: list[str]) -> None:
    want = 1.0 - table_distance(a, b) / max(len(a), len(b)) if a or b else 0.0
    assert word_similarity(" ".join(a), " ".join(b)) == want


@settings(deadline=None)
@given(WORDS, WORDS)
def test_the_early_exit_never_changes_whether_thinking_repeats(a: list[str], b: list[str]) -> None:
    turns = [TurnEvidence(" ".join(a), ("x",)), TurnEvidence(" ".join(b), ("d",))]
    repeats = turn_correctness(turns, silver={"d": 1})[1] == 0.0
    assert repeats is (word_similarity(" ".join(a), " ".join(b)) > 0.5)


def test_similarity_of_long_texts_is_exact_and_quick() -> None:
    words = [f"w{i % 97}" for i in range(1_000)]
    assert word_similarity(" ".join(words), " ".join(words[1:])) == 1.0 - 1 / 1_000


# A whole batch.


def test_groups_do_not_see_each_others_documents_wherever_they_stand() -> None:
    batch = [found("a"), found("a", score=0.0), found("b"), found("a b", score=0.0)]
    values, stats = query_correctness(batch, group_ids=["p", "q", "q", "p"])
    np.testing.assert_array_equal(values, [[1.0, np.nan], [0.0, np.nan], [1.0, np.nan], [0.5, np.nan]])
    assert stats.silver_counts == (1, 1)
    assert sorted(stats.correctness_values) == [0.0, 0.5, 1.0, 1.0]
    assert stats.correctness_mean == 0.625


def test_invalid_trajectories_and_groups_without_silver_get_no_correctness() -> None:
    batch = [found("a"), found("a", valid=False), found("a", score=0.5)]
    values, stats = query_correctness(batch, group_ids=["p", "p", "q"])
    assert np.isnan(values[1:]).all()
    assert stats.silver_counts == (1, 0)
    assert stats.groups_without_silver == 1
    assert stats.share_without_silver == 0.5


def test_a_trajectory_that_takes_no_part_gives_no_silver_documents_and_gets_no_correctness() -> None:
    batch = [found("a", score=float("nan")), found("a", score=0.0), found("a")]
    values, stats = query_correctness(batch, group_ids=["p", "p", "q"], included_N=[False, True, False])
    assert np.isnan(values).all()
    assert stats.silver_counts == (0,)
    assert stats.correctness_mean is None


def test_trajectories_of_different_lengths_are_padded() -> None:
    values, _ = query_correctness([found("a", "b"), found(), found("b", score=0.0)], group_ids=[1, 1, 1])
    np.testing.assert_array_equal(values, [[1, 1, np.nan], [np.nan] * 3, [1, np.nan, np.nan]])


def test_an_empty_batch_and_a_trajectory_without_turns_are_no_errors() -> None:
    values, stats = query_correctness([], group_ids=[])
    assert values.shape == (0, 0)
    assert stats.share_without_silver == 0.0
    nothing = TrajectoryEvidence(turns=(), score=1.0, format_valid=True)
    assert query_correctness([nothing], group_ids=["p"])[0].shape == (1, 0)


@settings(deadline=None)
@given(st.permutations(range(5)))
def test_order_of_the_trajectories_does_not_matter(order: list[int]) -> None:
    batch = [found("a b", "c"), found("a x", score=0.5), found("c", score=0.0), found("c d", valid=False), found("b")]
    ids = ["p", "p", "q", "p", "q"]
    plain, _ = query_correctness(batch, group_ids=ids)
    shuffled, _ = query_correctness([batch[n] for n in order], group_ids=[ids[n] for n in order])
    np.testing.assert_array_equal(shuffled, plain[order])


def test_unknown_variant_and_broken_score_are_refused() -> None:
    with pytest.raises(ConfigError, match="variant must be one of share, max, mean, got 'old'"):
        query_correctness([found("a")], group_ids=["p"], variant="old")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"score\[0\] is nan"):
        query_correctness([found("a", score=float("nan"))], group_ids=["p"])


def test_evidence_is_read_from_a_trajectory() -> None:
    document = Document(id="d7", title="Film", text="A film.")
    turns = (
        Turn(
            text="t</think><search>q</search>",
            thinking="t",
            action=Action(ActionKind.SEARCH, "q"),
            documents=(document, document),
            observation="seen",
        ),
        Turn(text="u</think><answer>a</answer>", thinking="u", action=Action(ActionKind.ANSWER, "a")),
    )
    question = Question(id="q1", text="?", golden_answers=("a",))
    trajectory = Trajectory(question=question, prompt="?", turns=turns, stop_reason=StopReason.ANSWER)
    assert TrajectoryEvidence.from_trajectory(trajectory, score=1.0, format_valid=True) == TrajectoryEvidence(
        turns=(TurnEvidence("t", ("d7", "d7")), TurnEvidence("u", ())), score=1.0, format_valid=True
    )
