"""Recorded rollouts of Search-R1's evaluation to demonstrations.

A row is ``{"dataset", "id", "prompt", "response", "em", ...}``. What the recorded policy thought, searched and answered
is kept; the layout is not, because most of its rollouts are not in the format that training rewards: tags are put where
they belong, a turn without a thought gets one, and observations are rendered by our code. Only rollouts that answered
rightly from what they had found are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from calibadv.errors import DataError
from calibadv.io.files import read_json_lines
from calibadv.rewards.answer_scores import exact_match
from calibadv.rewards.format import is_well_formed
from calibadv.tags import ROLE_TAG, THINK_CLOSE, THINK_OPEN, first_action
from calibadv.training.sft import templates as phrases
from calibadv.training.sft.demonstrate import (
    answer_turn,
    demonstration,
    final_answer,
    joined,
    one_line,
    quoted,
    says,
    search_turn,
)
from calibadv.trajectory import ActionKind, Document, Question, Trajectory, Turn

LONGEST_THOUGHT = 120
"""Words; the recorded policies ramble beyond that."""
_PREAMBLE = re.compile(r"^(?:A:|I'll start by conducting reasoning to answer the question\.?)\s*")
_HALF_TAG = re.compile(r"\s*</?<?/?$")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and row of a JSONL file of traces, plain or gzipped."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of traces; check sft.traces")
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not {"dataset", "id", "prompt", "response"} <= row.keys():
            raise DataError(f"{path}:{number}: a trace must have dataset, id, prompt and response")
        yield number, row


def read_trace(row: Mapping[str, Any], question: Question, *, rng: Random, max_searches: int) -> Trajectory | str:
    """The demonstration that a row makes for its question, or why it makes none."""
    if not isinstance(row["prompt"], str) or not isinstance(row["response"], str):
        return "no text"
    recorded = Trajectory.from_text(row["prompt"], row["response"], question)
    if recorded.answer is None:
        return "no answer"
    if exact_match(recorded.answer, question.golden_answers) != 1.0 or row.get("em", 1.0) != 1.0:
        return "answered wrongly"
    searches = list(recorded.turns[:-1])
    if not searches or len(searches) > max_searches:
        return "no search" if not searches else "too many searches"
    if any(turn.action.kind is not ActionKind.SEARCH or not turn.documents for turn in searches):
        return "a turn without a search"
    seen = [document for turn in searches for document in turn.documents]
    if final_answer(question, seen) is None:
        return "answered from memory"
    turns: list[Turn] = []
    for number, turn in enumerate(searches):
        query = _HALF_TAG.sub("", one_line(turn.action.content))
        if not query:
            return "an empty query"
        thought = thought_of(turn)
        if not thought:
            templates = phrases.FIRST if number == 0 else phrases.NEXT
            thought = phrases.say(rng, templates, need=f'more about "{query}"', question=question.text)
        turns.append(search_turn(thought, query, turn.documents))
    answer = one_line(recorded.answer)
    last = thought_of(recorded.turns[-1]) or conclusion(answer, turns[-1].documents, rng=rng)
    trajectory = demonstration(question, [*turns, answer_turn(last, answer)])
    if any(len(turn.thinking.split()) > LONGEST_THOUGHT for turn in trajectory.turns):
        return "rambles"
    return trajectory if is_well_formed(trajectory) else "not well formed"


def thought_of(turn: Turn) -> str:
    """What a recorded turn thought, wherever it put it; "" if it did not."""
    text = turn.thinking
    if not text:
        action = first_action(turn.text)
        text = turn.text if action is None else turn.text[: action.start]
        text = text.split(THINK_OPEN, 1)[-1].split(THINK_CLOSE, 1)[0]
    return " ".join(_PREAMBLE.sub("", ROLE_TAG.sub(" ", text).strip()).split())


def conclusion(answer: str, documents: tuple[Document, ...], *, rng: Random) -> str:
    """The thought before an answer that came without one: the document that says it."""
    last = phrases.say(rng, phrases.LAST, answer=answer)
    for number, document in enumerate(documents, start=1):
        if says(document.text, answer):
            return joined(quoted(number, document, [answer], rng=rng), last)
    return last
