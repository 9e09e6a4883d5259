"""Small things every rollout test needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from calibadv.io.clock import Clock, FakeClock
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import CharTokenizer, RolloutConfig, RolloutResult, ScriptedPolicy, rollout
from calibadv.trajectory import Document, Question

DOCUMENTS = [Document(id=f"d{i}", title=f"Title {i}", text=f"fact number {i}") for i in range(5)]


def make_questions(count: int) -> list[Question]:
    return [Question(id=f"q{i}", text=f"who is number {i}?", golden_answers=("x",)) for i in range(count)]


@pytest.fixture
def questions() -> Callable[[int], list[Question]]:
    return make_questions


@pytest.fixture
def documents() -> list[Document]:
    return list(DOCUMENTS)


@pytest.fixture
def play() -> Callable[..., RolloutResult]:
    """``play(scripts, **config)``: one scripted episode per script, each the one rollout of its own question."""

    def run(
        scripts: Sequence[Sequence[str]], *, retriever: Any = None, ticks_per_turn: int = 1, max_rows: int = 64,
        progress: Any = None, clock: Clock | None = None, **config: Any,
    ) -> RolloutResult:  # fmt: skip
        tokenizer = CharTokenizer()
        settings: dict[str, Any] = {"prompt": "question", "search_retries": 0} | config
        return rollout(
            make_questions(len(scripts)),
            num_rollouts=1,
            policy=ScriptedPolicy(scripts, tokenizer=tokenizer, ticks_per_turn=ticks_per_turn, max_rows=max_rows),
            retriever=ListRetriever(DOCUMENTS) if retriever is None else retriever,
            tokenizer=tokenizer,
            config=RolloutConfig(**settings),
            seed=0,
            progress=progress,
            clock=clock or FakeClock(),
        )

    return run
