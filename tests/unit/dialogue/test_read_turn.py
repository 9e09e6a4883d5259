"""What a turn asks for."""

from calibadv.dialogue.parse import read_turn
from calibadv.trajectory import Action, ActionKind


def test_a_search_and_an_answer_are_read_with_their_thinking() -> None:
    parsed = read_turn("<think> a </think><search> q </search>", think_open=False)
    assert parsed == ("a", Action(ActionKind.SEARCH, "q"))
    assert read_turn(" a </think><answer> b </answer>", think_open=True) == ("a", Action(ActionKind.ANSWER, "b"))


def test_text_without_a_complete_pair_is_an_invalid_action() -> None:
    for text in ("", "just text", "<search>q", "<think>hm</think>", "<answer>a</search>"):
        assert read_turn(text, think_open=False).action == Action(ActionKind.INVALID)


def test_an_action_inside_of_the_thinking_counts() -> None:
    parsed = read_turn("<think>let me <search>q</search>", think_open=False)
    assert parsed == ("", Action(ActionKind.SEARCH, "q"))


def test_an_empty_query_is_a_search() -> None:
    assert read_turn("<search> \n </search>", think_open=True).action == Action(ActionKind.SEARCH, "")
