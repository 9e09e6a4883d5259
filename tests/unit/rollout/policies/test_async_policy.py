"""Policies whose turns are written elsewhere: nobody waits for somebody else's turn or search."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from calibadv.errors import ConfigError, PolicyError, RetrieverError, RetrieverUnavailable
from calibadv.retrieval.base import Hit
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import (
    CharTokenizer,
    Completion,
    GenerationRequest,
    RequestQueue,
    RolloutConfig,
    RolloutResult,
    rollout,
)
from calibadv.rollout.policies.async_policy import AsynchronousPolicy
from calibadv.rollout.policies.scripted import cut
from calibadv.trajectory import Document, Question, StopReason

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
FOREVER_S = 3600.0


class ScriptedElsewhere(AsynchronousPolicy):
    """Reads its turns from a script, after ``seconds(episode, turn)``."""

    def __init__(
        self,
        script: Sequence[Sequence[str]],
        *,
        seconds: Callable[[int, int], float] = lambda episode, turn: 0.0,
        max_rows: int = 8,
        max_context: int | None = None,
    ) -> None:
        super().__init__(max_rows=max_rows, max_context=max_context)
        self.script = script
        self.seconds = seconds
        self.turns = [0] * len(script)
        self.writing = self.most = 0
        self.cancelled: list[int] = []

    async def write(self, request: GenerationRequest) -> Completion:
        turn = self.turns[request.episode]
        self.turns[request.episode] += 1
        self.writing += 1
        self.most = max(self.most, self.writing)
        try:
            await asyncio.sleep(self.seconds(request.episode, turn))
        except asyncio.CancelledError:
            self.cancelled.append(request.episode)
            raise
        finally:
            self.writing -= 1
        text = self.script[request.episode][turn]
        if text == "broken":
            raise PolicyError(f"episode {request.episode}: the engine broke")
        text, finish = cut(text, request.params)
        ids = tuple(CharTokenizer().encode(text))
        return Completion(episode=request.episode, token_ids=ids, logprobs=(0.0,) * len(ids), text=text, finish=finish)


Play = Callable[..., RolloutResult]


@pytest.fixture
def play_elsewhere(questions: Callable[[int], list[Question]], documents: list[Document]) -> Iterator[Play]:
    opened: list[AsynchronousPolicy] = []

    def run(policy: ScriptedElsewhere, *, retriever: Any = None, **config: Any) -> RolloutResult:
        opened.append(policy)
        retriever = retriever or ListRetriever(documents)
        settings: dict[str, Any] = {"prompt": "question", "search_retries": 0} | config
        return rollout(
            questions(len(policy.script)), num_rollouts=1, policy=policy, retriever=retriever,
            tokenizer=CharTokenizer(), config=RolloutConfig(**settings),
            seed=0,
        )  # fmt: skip

    yield run
    for policy in opened:
        policy.close()


def test_it_plays_what_a_policy_in_this_process_plays(play_elsewhere: Play, play: Play) -> None:
    scripts = [[SEARCH.format(f"query {i} {n}") for n in range(i % 4)] + [ANSWER.format("x")] for i in range(10)]
    elsewhere = play_elsewhere(ScriptedElsewhere(scripts, max_rows=3))
    assert elsewhere.trajectories == play(scripts).trajectories


def test_a_slow_search_holds_up_nobody_else(play_elsewhere: Play, documents: list[Document]) -> None:
    others_done = threading.Event()
    searched: list[str] = []

    class Retriever:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            searched.extend(queries)
            if "slow" in queries:
                assert others_done.wait(timeout=20), "the other episodes waited for the slow search"
            if "last" in queries:
                others_done.set()
            return [[Hit(document=documents[0], score=1.0)] for _ in queries]

    scripts = [
        [SEARCH.format("slow"), ANSWER.format("x")],
        *([SEARCH.format(f"{i} {n}") for n in range(3)] + [SEARCH.format("last"), ANSWER.format("x")] for i in (1, 2)),
    ]
    # The slow query alone in its batch: the others begin to search a little later.
    policy = ScriptedElsewhere(scripts, seconds=lambda episode, turn: 0.1 if episode and not turn else 0.0)
    result = play_elsewhere(policy, retriever=Retriever(), search_threads=2)
    assert [t.stop_reason for t in result.trajectories] == [StopReason.ANSWER] * 3
    assert searched.index("slow") < searched.index("last")


def test_a_long_turn_holds_up_nobody_else(play_elsewhere: Play) -> None:
    scripts = [[ANSWER.format("x")], [SEARCH.format(str(n)) for n in range(4)] + [ANSWER.format("x")]]

    class Watched(ScriptedElsewhere):
        """The turn of episode 0 ends once all five turns of the other one have been handed over."""

        def __init__(self) -> None:
            super().__init__(scripts)
            self.finished: list[int] = []

        async def write(self, request: GenerationRequest) -> Completion:
            while request.episode == 0 and len(self.finished) < 5:
                await asyncio.sleep(0.001)
            return await super().write(request)

        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            for completion in super().generate(requests):
                self.finished.append(completion.episode)
                yield completion

    policy = Watched()
    play_elsewhere(policy)
    assert policy.finished == [1] * 5 + [0]


def test_no_more_requests_are_in_flight_than_asked_for(play_elsewhere: Play) -> None:
    policy = ScriptedElsewhere([[ANSWER.format("x")]] * 9, seconds=lambda episode, turn: 0.02, max_rows=4)
    assert len(play_elsewhere(policy).trajectories) == 9
    assert policy.most == 4


def test_a_turn_whose_episode_ran_out_of_time_is_cancelled(play_elsewhere: Play) -> None:
    scripts = [["never"], [SEARCH.format("a"), ANSWER.format("x")]]
    policy = ScriptedElsewhere(scripts, seconds=lambda episode, turn: 0.0 if episode else FOREVER_S)
    result = play_elsewhere(policy, deadline_s=0.4)
    assert [t.stop_reason for t in result.trajectories] == [StopReason.DEADLINE, StopReason.ANSWER]
    policy.close()
    assert policy.cancelled == [0]


def test_a_broken_engine_ends_the_rollout_and_hands_over_what_was_finished(play_elsewhere: Play) -> None:
    scripts = [[ANSWER.format("x")], ["broken"], [SEARCH.format("a")] * 5]
    policy = ScriptedElsewhere(
        scripts, seconds=lambda episode, turn: 0.2 if episode == 1 else FOREVER_S * (episode == 2)
    )
    with pytest.raises(PolicyError, match="episode 1: the engine broke") as caught:
        play_elsewhere(policy)
    assert [t.question.id for t in caught.value.trajectories] == ["q0"]
    policy.close()
    assert policy.cancelled == [2]


def test_an_unreachable_retriever_ends_the_rollout(play_elsewhere: Play) -> None:
    class Gone:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise RetrieverError("gone")

    with pytest.raises(RetrieverUnavailable, match="unreachable"):
        play_elsewhere(ScriptedElsewhere([[SEARCH.format("a"), ANSWER.format("x")]] * 2), retriever=Gone())


def test_a_prompt_that_does_not_fit_is_refused(play_elsewhere: Play) -> None:
    with pytest.raises(ConfigError, match="the context holds 5"):
        play_elsewhere(ScriptedElsewhere([[ANSWER.format("x")]], max_context=5))


def test_a_policy_can_be_closed_twice() -> None:
    with ScriptedElsewhere([]) as policy:
        policy.close()
    policy.close()


def test_at_least_one_row_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_rows must be >= 1, got 0"):
        ScriptedElsewhere([], max_rows=0)
