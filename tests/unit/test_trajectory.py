"""The vocabulary, and trajectories read from plain text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.rewards.format import format_problem, is_well_formed
from calibadv.trajectory import (
    Action,
    ActionKind,
    Document,
    Question,
    StopReason,
    Trajectory,
    Turn,
)

QUESTION = Question(id="1", text="Where?", golden_answers=("Oslo",))
BLOCK = '\n\n<information>Doc 1(Title: "Oslo") A city.</information>\n\n'
RESPONSE = f"<think>hm</think><search> where </search>{BLOCK}<think>ah</think> <answer> Oslo </answer>"


def test_turns_are_read_from_plain_text() -> None:
    trajectory = Trajectory.from_text("Q: ", RESPONSE, QUESTION)
    assert [turn.thinking for turn in trajectory.turns] == ["hm", "ah"]
    assert trajectory.queries == ("where",)
    assert trajectory.answer == "Oslo"
    assert trajectory.stop_reason is StopReason.ANSWER
    assert [(d.title, d.text) for d in trajectory.turns[0].documents] == [("Oslo", "A city.")]
    assert trajectory.turns[0].observation == BLOCK
    assert not trajectory.think_prefill
    assert is_well_formed(trajectory)


def test_the_text_comes_back() -> None:
    trajectory = Trajectory.from_text("Q: ", RESPONSE, QUESTION)
    assert trajectory.response == RESPONSE
    assert trajectory.to_text() == "Q: " + RESPONSE


def test_the_think_prefill_belongs_to_the_prompt_and_the_observations() -> None:
    trajectory = Trajectory.from_text("Q: <think>", RESPONSE.removeprefix("<think>"), QUESTION)
    assert trajectory.think_prefill
    assert trajectory.turns[0].observation == BLOCK + "<think>"
    assert [turn.thinking for turn in trajectory.turns] == ["hm", "ah"]
    assert is_well_formed(trajectory)
    assert trajectory.to_text() == "Q: " + RESPONSE


def test_a_missing_prefill_after_an_observation_is_not_made_up() -> None:
    response = f"hm</think><search>q</search>{BLOCK}ah</think><answer>a</answer>"
    trajectory = Trajectory.from_text("Q: <think>", response, QUESTION)
    assert format_problem(trajectory) == "turn 2: starts with </think> instead of <think>"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("<think>a</think><answer>b</answer>", StopReason.ANSWER),
        ("<think>a</think><search>b</search>", StopReason.SEARCH_LIMIT),
        ("<think>a", StopReason.INVALID_ACTION),
        ("", StopReason.INVALID_ACTION),
        (f"<search>a</search>{BLOCK}", StopReason.CONTEXT_LENGTH),
    ],
)
def test_the_stop_reason_follows_from_the_last_turn(response: str, reason: StopReason) -> None:
    assert Trajectory.from_text("Q", response, QUESTION).stop_reason is reason


def test_a_response_that_ends_with_the_prefill_has_no_empty_turn() -> None:
    trajectory = Trajectory.from_text("<think>", f"a</think><search>b</search>{BLOCK}<think>", QUESTION)
    assert len(trajectory.turns) == 1
    assert trajectory.turns[0].observation.endswith("<think>")


def test_end_markers_at_the_very_end_are_left_out() -> None:
    for marker in ("<|im_end|>", "<|endoftext|><|endoftext|>", "<|eot_id|>\n", "</s>"):
        assert Trajectory.from_text("Q", RESPONSE + marker, QUESTION).response == RESPONSE


def test_documents_with_the_same_text_get_the_same_id_at_any_rank() -> None:
    block = "\n\n<information>Doc 1(Title: A) a\nDoc 2(Title: B) b</information>\n\n"
    other = "\n\n<information>Doc 1(Title: B) b\nDoc 2(Title: C) c</information>\n\n"
    trajectory = Trajectory.from_text("Q", f"<search>x</search>{block}<search>y</search>{other}", QUESTION)
    first, second = (turn.documents for turn in trajectory.turns)
    assert first[1] == second[0]
    assert len({d.id for d in (*first, *second)}) == 3


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<search>", "</search>", BLOCK, "<answer>", "</answer>", "\n", "x"]),
        max_size=20,
    ).map("".join),
    st.booleans(),
)
def test_any_text_can_be_read_and_comes_back(response: str, think_prefill: bool) -> None:
    trajectory = Trajectory.from_text("Q", response, QUESTION, think_prefill=think_prefill)
    assert trajectory.turns
    assert trajectory.response == response


def test_documents_are_compared_by_id_alone() -> None:
    assert Document(id="1", title="a", text="b") == Document(id="1", title="c", text="d")
    assert Document(id="1", title="a", text="b") != Document(id="2", title="a", text="b")


def test_only_searches_that_were_carried_out_have_queries() -> None:
    turns = (
        Turn(text="", action=Action(ActionKind.SEARCH, "a"), observation="x"),
        Turn(text="", action=Action(ActionKind.SEARCH, "b")),
    )
    trajectory = Trajectory(question=QUESTION, prompt="", turns=turns, stop_reason=StopReason.SEARCH_LIMIT)
    assert trajectory.queries == ("a",)
    assert trajectory.answer is None
    assert not trajectory.failed
