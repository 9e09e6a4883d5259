"""Parity of whole episodes: scripted generations through our engine, one character a token.

Turn texts, observations, who generates when, and the counters agree. Where we differ on purpose, by what the record
holds:

===================================================  =========================  ====================================
record                                               the reference              ours
===================================================  =========================  ====================================
an answer, then a search in one generation           runs on to the search,     the turn ends with the answer's
                                                     the action is the answer   closing tag, as a policy that stops
                                                                                at strings ends it
an invalid action that ends the episode              appends its message,       appends nothing
                                                     masked out
a document whose title line has no quotes            keeps it as it is          quotes every title
tags or document markers inside of a document        passes them through        replaces characters, one for one
a format verdict that hangs on such tags, or on      judges the whole text      judges what the model wrote
what the model wrote after its answer
===================================================  =========================  ====================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calibadv.dialogue.parse import cut_at_stop
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rewards.format import is_well_formed
from calibadv.rollout import CharTokenizer, RolloutConfig, ScriptedPolicy, rollout
from calibadv.tags import ANSWER_CLOSE, INFORMATION_CLOSE, ROLE_TAG, SEARCH_CLOSE, THINK_OPEN
from calibadv.trajectory import ActionKind, Document, Question, StopReason, Trajectory

pytestmark = pytest.mark.golden

INVALID_MESSAGE = "\nMy previous action is invalid."
REPLACED = {("<", "("), ("(", "[")}


def document_of(raw: str) -> Document:
    title, _, text = raw.partition("\n")
    return Document(id=raw, title=title, text=text)


def play(batch: dict[str, Any]) -> tuple[Trajectory, ...]:
    """The batch's scripts through our engine."""
    tokenizer = CharTokenizer()
    prefill = batch["prepend_think_token"]
    questions = [
        Question(id=str(i), text=prompt.removesuffix(THINK_OPEN) if prefill else prompt, golden_answers=("x",))
        for i, prompt in enumerate(batch["prompts"])
    ]
    results = {query: [document_of(raw) for raw in raws] for query, raws in batch["search_results"].items()}
    config = RolloutConfig(
        prompt="question", think_prefill=prefill, max_searches=batch["max_turns"], top_k=1000,
        max_turn_tokens=10**6, max_observation_tokens=10**6,
    )  # fmt: skip
    return rollout(
        questions, num_rollouts=1, policy=ScriptedPolicy(batch["scripts"], tokenizer=tokenizer),
        retriever=ListRetriever(results), tokenizer=tokenizer, config=config, seed=0,
    ).trajectories  # fmt: skip


def reference_pieces(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The reference's model segments, and the text after each."""
    segments = [tuple(segment) for segment in record["segments"]]
    starts = [*(start for start, _ in segments), record["length"]]
    text = record["response"]
    gaps = [text[end:start] for (_, end), start in zip(segments, starts[1:], strict=True)]
    return [text[start:end] for start, end in segments], gaps


def same_observation(ours: str, theirs: str, documents: tuple[Document, ...]) -> bool:
    for rank, document in enumerate(documents, start=1):
        if not document.id.startswith('"'):
            title = document.id.partition("\n")[0]
            theirs = theirs.replace(f"Doc {rank}(Title: {title})", f'Doc {rank}(Title: "{title}")', 1)
    changed = {(old, new) for old, new in zip(theirs, ours, strict=False) if old != new}
    return len(ours) == len(theirs) and changed <= REPLACED


def forged(record: dict[str, Any]) -> bool:
    """A document holds a role tag."""
    return any(
        len(ROLE_TAG.findall(gap)) > 2 + (gap.rstrip().endswith(THINK_OPEN))
        for gap in reference_pieces(record)[1]
        if INFORMATION_CLOSE in gap
    )


@pytest.fixture(scope="module")
def played(golden: Callable[[str], Any]) -> list[tuple[dict[str, Any], tuple[Trajectory, ...]]]:
    return [(batch, play(batch)) for batch in golden("rollout_loop.json.gz")["batches"]]


def test_turns_and_observations_equal_the_reference(played: list[Any]) -> None:
    for batch, trajectories in played:
        for record, trajectory in zip(batch["rollouts"], trajectories, strict=True):
            texts, gaps = reference_pieces(record)
            turns = [turn for turn in trajectory.turns if turn.text]  # an empty generation has no segment
            assert len(turns) == len(texts), batch["id"]
            if gaps and not trajectory.turns[-1].text:  # the message for the empty generation follows without a border
                gaps[-1] = gaps[-1].partition(INVALID_MESSAGE)[0]
            for turn, text, gap in zip(turns, texts, gaps, strict=True):
                if turn.text != text:
                    assert turn.action.kind is ActionKind.ANSWER
                    assert text.startswith(turn.text)
                    assert text.endswith(SEARCH_CLOSE)
                if turn.observation:
                    assert same_observation(turn.observation, gap, turn.documents), batch["id"]
                elif turn is trajectory.turns[-1] and turn.action.kind is ActionKind.INVALID:
                    assert gap.startswith(INVALID_MESSAGE) or (gap == "" and len(trajectory.turns) > batch["max_turns"])
                elif turn is trajectory.turns[-1]:
                    assert gap == ""


def test_the_same_rollouts_generate_at_each_turn(played: list[Any]) -> None:
    for batch, trajectories in played:
        calls = [
            [i for i, trajectory in enumerate(trajectories) if len(trajectory.turns) > turn]
            for turn in range(max(len(trajectory.turns) for trajectory in trajectories))
        ]
        assert calls == batch["generation_calls"], batch["id"]


def test_counters_equal_the_reference(played: list[Any]) -> None:
    for batch, trajectories in played:
        for record, trajectory in zip(batch["rollouts"], trajectories, strict=True):
            kinds = [turn.action.kind for turn in trajectory.turns]
            assert record["turns"] == 1 + len(trajectory.search_turns), batch["id"]
            assert record["still_active"] == (trajectory.stop_reason is StopReason.SEARCH_LIMIT)
            assert record["valid_actions"] == sum(kind is not ActionKind.INVALID for kind in kinds)
            assert record["valid_searches"] == kinds.count(ActionKind.SEARCH)
            assert record["void_turn_free"] == (ActionKind.INVALID not in kinds)


def test_format_verdicts_equal_the_reference_where_only_the_model_wrote_tags(played: list[Any]) -> None:
    compared = 0
    for batch, trajectories in played:
        for i, (record, trajectory) in enumerate(zip(batch["rollouts"], trajectories, strict=True)):
            ran_on = any(
                ANSWER_CLOSE in text[: text.find(SEARCH_CLOSE) + 1] for text in map(cut_at_stop, batch["scripts"][i])
            )
            if not ran_on and not forged(record):
                assert is_well_formed(trajectory) == record["format_valid"], batch["id"]
                compared += 1
    assert compared
