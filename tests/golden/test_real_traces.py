"""Import of 5,375 real rollouts from plain text, against what the published code reads from each.

Verdict, answer, scores and model segments agree in every trace. Where we differ on purpose:

======================================  ===========================================  ==================================
trace                                   the reference                                ours
======================================  ===========================================  ==================================
the message about an invalid action     counts its ``<search> and </search>`` as a   it is an observation
                                        search
the model wrote an information block    takes it for retrieved documents             only observations hold documents
a response that begins with text or     glues an opening tag on, so that the text    thinking needs its own opening tag
white space before the first tag        before becomes thinking
======================================  ===========================================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from calibadv.rewards.format import is_well_formed
from calibadv.rewards.outcome import score_trajectory
from calibadv.trajectory import Question, Trajectory

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def imported(golden: Callable[[str], Any]) -> list[tuple[str, dict[str, Any], Trajectory]]:
    """Response, the reference's reading and ours, for every trace."""
    template = golden("real_prompts.json")["prompt_template"]
    readings = golden("real_traces.jsonl.gz")
    questions: dict[tuple[str, str], Question] = {}
    result = []
    for source, reading in zip(golden("real_traces_text.jsonl.gz"), readings, strict=True):
        assert source["trace_id"] == reading["trace_id"]
        key = (source["dataset"], source["question_id"])
        if "question" in source:  # stands in the first record of each question
            questions[key] = Question(
                id=source["question_id"],
                text=source["question"],
                golden_answers=tuple(source["golden_answers"]),
                dataset=source["dataset"],
            )
        question = questions[key]
        prompt = template.replace("{question}", question.text)
        result.append((source["response"], reading, Trajectory.from_text(prompt, source["response"], question)))
    return result


def segments(trajectory: Trajectory) -> Iterator[list[int]]:
    """Character ranges of the model's text in the response."""
    position = 0
    for turn in trajectory.turns:
        if turn.text:
            yield [position, position + len(turn.text)]
        position += len(turn.text) + len(turn.observation)


def test_verdict_and_answer_agree(imported: list[tuple[str, dict[str, Any], Trajectory]]) -> None:
    for _, reading, trajectory in imported:
        assert is_well_formed(trajectory) == reading["valid"], reading["trace_id"]
        assert trajectory.answer == reading["extracted_answer"], reading["trace_id"]


def test_scores_agree(
    imported: list[tuple[str, dict[str, Any], Trajectory]], same_number: Callable[[float, float], bool]
) -> None:
    for _, reading, trajectory in imported:
        for name, got in score_trajectory(trajectory).items():
            assert same_number(got, reading[name]), (reading["trace_id"], name)


def test_model_segments_agree_and_the_text_comes_back(
    imported: list[tuple[str, dict[str, Any], Trajectory]],
) -> None:
    for response, reading, trajectory in imported:
        assert list(segments(trajectory)) == reading["model_segments"], reading["trace_id"]
        assert trajectory.response == response


def test_queries_agree_but_for_those_in_messages(imported: list[tuple[str, dict[str, Any], Trajectory]]) -> None:
    for response, reading, trajectory in imported:
        between = [response[end:start] for (_, end), (start, _) in pairwise([*reading["model_segments"], [None, None]])]
        queries = [query.strip() for query in reading["queries"]]
        for _ in range(sum("My previous action is invalid." in text for text in between)):
            queries.remove("and")
        assert list(trajectory.queries) == queries, reading["trace_id"]
        if len(queries) == len(reading["queries"]):
            assert len(trajectory.queries) == reading["n_search"]


def test_documents_agree_but_for_those_the_model_wrote(
    imported: list[tuple[str, dict[str, Any], Trajectory]],
) -> None:
    for _, reading, trajectory in imported:
        blocks = [[document.id for document in turn.documents] for turn in trajectory.turns if turn.documents]
        if any("<information>" in turn.text for turn in trajectory.turns):
            want = iter([document for block in reading["documents"] for document in block])
            assert all(document in want for block in blocks for document in block), reading["trace_id"]
        else:
            assert blocks == reading["documents"], reading["trace_id"]


def test_thinking_agrees_but_for_the_glued_tag(imported: list[tuple[str, dict[str, Any], Trajectory]]) -> None:
    for response, reading, trajectory in imported:
        want = []
        for start, end in reading["think_spans"]:
            thinking = response[start:end]
            if reading["think_prefix_added"] and start == 0:
                thinking = thinking.partition("<think>")[2]
            want.append(thinking.strip())
        got = [turn.thinking for turn in trajectory.turns if turn.thinking]
        assert got == [thinking for thinking in want if thinking], reading["trace_id"]
