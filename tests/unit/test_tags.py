"""The tag grammar on strings, and the import of plain text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.tags import (
    ROLES,
    Pair,
    cut_at_stop,
    first_action,
    split_documents,
    split_response,
    thinking_span,
)

BLOCK = '\n\n<information>Doc 1(Title: "Oslo") A city.</information>\n\n'
ALL_TAGS = [f"<{slash}{role}>" for role in ROLES for slash in ("", "/")]
FRAGMENTS = st.sampled_from([*ALL_TAGS, "<", ">", "text", " ", "\n", "\n\n", "Doc 1(Title: ", 'Doc 2(Title: "T") x'])
MARKUP = st.lists(FRAGMENTS, max_size=25).map("".join)


@pytest.mark.parametrize(
    ("text", "role", "content"),
    [
        ("<search>a</search><answer>b</answer>", "search", "a"),
        ("<answer>b</answer><search>a</search>", "answer", "b"),
        ("<search> x <answer>b</answer> y </search>", "search", " x <answer>b</answer> y "),
        ("<answer> x <search>a</search>", "search", "a"),
        ("</search><answer>b</answer>", "answer", "b"),
        ("<search>a<search>b</search>", "search", "a<search>b"),
        ("<search></search>", "search", ""),
    ],
)
def test_the_complete_pair_that_starts_first_decides(text: str, role: str, content: str) -> None:
    pair = first_action(text)
    assert pair is not None
    assert (pair.role, pair.content) == (role, content)


@pytest.mark.parametrize(
    "text", ["", "<search>a", "a</search>", "<search>a</answer>", "<Search>a</Search>", "<search >"]
)
def test_without_a_complete_pair_there_is_no_action(text: str) -> None:
    assert first_action(text) is None


@settings(deadline=None)
@given(MARKUP)
def test_a_pair_is_where_it_says(text: str) -> None:
    pair = first_action(text)
    if pair is not None:
        assert text[pair.start : pair.end] == f"<{pair.role}>{pair.content}</{pair.role}>"
        assert f"</{pair.role}>" not in pair.content


def test_thinking_must_close_before_the_action() -> None:
    assert thinking_span("<think>a</think><search>q</search>", think_open=False) == (7, 8)
    assert thinking_span("a</think><search>q</search>", think_open=True) == (0, 1)
    assert thinking_span("<search>q</search><think>a</think>", think_open=False) is None
    assert thinking_span("a <search>q</search></think>", think_open=True) is None
    assert thinking_span("<think>a", think_open=False) is None


def test_cut_prefers_the_search_close_wherever_it_stands() -> None:
    assert cut_at_stop("<answer>a</answer> <search>q</search> x") == "<answer>a</answer> <search>q</search>"
    assert cut_at_stop("<answer>a</answer> x") == "<answer>a</answer>"
    assert cut_at_stop("no tag") == "no tag"


@settings(deadline=None)
@given(MARKUP)
def test_pieces_cover_the_response_without_gaps(text: str) -> None:
    pieces = split_response(text)
    assert "".join(text[slice(*p.model)] + text[slice(*p.observation)] for p in pieces) == text


def pieces_of(text: str) -> list[tuple[str, str]]:
    return [(text[slice(*piece.model)], text[slice(*piece.observation)]) for piece in split_response(text)]


def test_a_block_after_a_search_is_an_observation_with_or_without_blank_lines() -> None:
    for block in (BLOCK, BLOCK.strip(), BLOCK.replace("\n", "\r\n")):
        text = f"<search>q</search>{block}<answer>a</answer>"
        assert pieces_of(text) == [("<search>q</search>", block), ("<answer>a</answer>", "")]


def test_a_block_that_the_model_wrote_in_its_text_is_no_observation() -> None:
    text = "<think>so <information>made up</information> is it</think><answer>a</answer>"
    assert pieces_of(text) == [(text, "")]


def test_a_closing_tag_inside_a_document_does_not_end_the_block() -> None:
    block = '\n\n<information>Doc 1(Title: "T") odd</information> text</information>\n\n'
    assert pieces_of(f"<search>q</search>{block}x") == [("<search>q</search>", block), ("x", "")]


def test_an_unclosed_block_stays_with_the_model() -> None:
    text = f"<search>q</search>\n\n<information>Doc 1(Title: T) x\n\n<search>r</search>{BLOCK}<answer>a</answer>"
    head = text[: text.index(BLOCK)]
    assert pieces_of(text) == [(head, BLOCK), ("<answer>a</answer>", "")]


def test_the_message_about_an_invalid_action_is_an_observation() -> None:
    message = "\nMy previous action is invalid. If I want to search, I should put it there. Let me try again.\n"
    assert pieces_of(f"hm{message}<answer>a</answer>") == [("hm", message), ("<answer>a</answer>", "")]


def test_documents_keep_their_titles_quotes_and_parentheses() -> None:
    block = '<information>Doc 1(Title: "A (film)") one\nDoc 2(Title: B (x)) two\nDoc 3(Title: C) </information>'
    assert [d[:2] for d in split_documents(block)] == [("A (film)", "one"), ("B (x)", "two"), ("C", "")]


def test_a_marker_inside_a_line_or_out_of_sequence_is_text() -> None:
    block = "<information>Doc 1(Title: A) see Doc 2(Title: X) y\nDoc 3(Title: Z) z\nDoc 2(Title: B) b</information>"
    assert [d.title for d in split_documents(block)] == ["A", "B"]
    assert "Doc 3(Title: Z)" in split_documents(block)[0].text


def test_a_block_without_markers_is_one_document_and_an_empty_one_none() -> None:
    assert [d[:2] for d in split_documents("<information> some text </information>")] == [("", "some text")]
    assert split_documents("<information>\n</information>") == []
    assert split_documents("no block") == []


def test_a_document_is_the_same_at_any_rank() -> None:
    first, second = split_documents("<information>Doc 1(Title: A) a\nDoc 2(Title: A) a</information>")
    assert first.source == second.source == "(Title:A) a"


def test_a_pair_names_its_fields() -> None:
    assert first_action("<answer>a</answer>") == Pair(role="answer", content="a", start=0, end=18)


def test_long_texts_of_unclosed_tags_are_read_in_linear_time() -> None:
    text = "<search>" * 50_000 + "<information>" * 50_000
    assert first_action(text) is None
    assert len(split_response(text)) == 1
    assert len(split_response("\n\n<information>" * 20_000)) == 1
