"""The scheduler: overlap of searches and generation, concurrency, deadlines, and questions that come at any time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from calibadv.errors import CalibAdvError, PolicyError, TokenMismatchError
from calibadv.io.clock import Clock, FakeClock
from calibadv.retrieval.base import Hit
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import (
    CharTokenizer,
    Completion,
    RequestQueue,
    RolloutConfig,
    RolloutResult,
    ScriptedPolicy,
    rollout,
)
from calibadv.rollout.episode import Episode, Listener
from calibadv.rollout.policy import GenerationRequest
from calibadv.rollout.prompts import make_prompts
from calibadv.rollout.scheduler import Scheduler
from calibadv.trajectory import Document, Question, StopReason

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
Play = Callable[..., RolloutResult]


class SignallingRetriever(ListRetriever):
    """A search ends only when it is told to."""

    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__(documents)
        self.may_end = threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        assert self.may_end.wait(timeout=10)
        return super().search(queries, k)


def test_generation_continues_while_a_search_runs(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    retriever, tokenizer = SignallingRetriever(documents), CharTokenizer()

    def script(episode: int, turn: int) -> str:
        if episode == 1 and turn == 0:
            return "x" * 5 + SEARCH.format("b")
        return SEARCH.format("a") if turn == 0 else ANSWER.format("x")

    class Policy(ScriptedPolicy):
        completed = 0

        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            for completion in super().generate(requests):
                self.completed += 1
                if self.completed == 4:  # every first turn is over although the first search has not ended
                    retriever.may_end.set()
                yield completion

    result = rollout(
        questions(4), num_rollouts=1, policy=Policy(script, tokenizer=tokenizer, max_rows=1), retriever=retriever,
        tokenizer=tokenizer, config=RolloutConfig(search_overlap=3), seed=0,
    )  # fmt: skip
    assert all(t.stop_reason is StopReason.ANSWER for t in result.trajectories)


def test_without_overlap_a_search_is_waited_for(play: Play) -> None:
    result = play([[SEARCH.format("a"), ANSWER.format("x")]], search_overlap=0)
    assert result.counters["ticks"] == 3  # search, answer, and the last call that finds nothing


def test_concurrency_bounds_the_episodes_alive(play: Play) -> None:
    class Watched(ListRetriever):
        most = 0

        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            self.most = max(self.most, len(queries))
            return super().search(queries, k)

    retriever = Watched([Document(id="1", title="t", text="x")])
    scripts = [[SEARCH.format(f"query {i}"), ANSWER.format("x")] for i in range(9)]
    result = play(scripts, retriever=retriever, concurrency=3)
    assert retriever.most <= 3
    assert len(result.trajectories) == 9


def test_a_slow_search_runs_into_the_deadline(play: Play, documents: list[Document]) -> None:
    class Slow(SignallingRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            clock.time += 6.0
            return super().search(queries, k)

    clock, retriever = FakeClock(), Slow(documents)
    scripts = [[SEARCH.format("slow"), ANSWER.format("x")], [ANSWER.format("x")]]
    slow, quick = play(scripts, retriever=retriever, clock=clock, deadline_s=5.0).trajectories
    retriever.may_end.set()
    assert (slow.stop_reason, quick.stop_reason) == (StopReason.DEADLINE, StopReason.ANSWER)
    assert slow.failed
    assert "deadline_s = 5.0 s while searching" in str(slow.error)


class TickingPolicy(ScriptedPolicy):
    """A second passes at every tick."""

    def __init__(self, *args: Any, clock: FakeClock, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.clock = clock
        self.completed = 0

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        policy = self

        class Ticking:
            def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
                policy.clock.time += 1.0
                return requests.take(room, idle=idle)

            def ended(self) -> list[int]:
                return requests.ended()

        for completion in super().generate(Ticking()):
            self.completed += 1
            yield completion


def test_an_episode_that_runs_out_of_time_while_it_is_written_is_dropped_by_the_policy(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    clock, tokenizer = FakeClock(), CharTokenizer()
    policy = TickingPolicy([[ANSWER.format("x")]], tokenizer=tokenizer, ticks_per_turn=10, clock=clock)
    (trajectory,) = rollout(
        questions(1), num_rollouts=1, policy=policy, retriever=ListRetriever(documents), tokenizer=tokenizer, seed=0,
        config=RolloutConfig(deadline_s=5.0), clock=clock,
    ).trajectories  # fmt: skip
    assert (trajectory.stop_reason, policy.completed) == (StopReason.DEADLINE, 0)


def test_token_ids_that_change_under_way_are_caught(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    class Tampering(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            episode.context[3] += 1
            return super().search(queries, k)

    scheduler, policy = live([[SEARCH.format("a")]], retriever=Tampering(documents))
    (episode,) = add(scheduler, 1)
    scheduler.finish()
    with pytest.raises(TokenMismatchError, match=r"question 'q0', rollout 0.*first difference at 3"):
        play_all(scheduler, policy)


# Live: questions come at any time, and each has its own listener.


class Recorder(Listener):
    """Writes down what happens to an episode."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.seconds = -1.0

    def turn_written(self, episode: Episode) -> None:
        self.seen.append("turn")

    def documents_found(self, episode: Episode) -> None:
        self.seen.append("documents")

    def finished(self, episode: Episode, *, seconds: float) -> None:
        self.seen.append(str(episode.stop_reason))
        self.seconds = seconds

    def given_up(self, episode: Episode, error: CalibAdvError) -> None:
        self.seen.append(f"given up: {error}")


def live(
    script: Any,
    *,
    retriever: Any = None,
    clock: Clock | None = None,
    policy: ScriptedPolicy | None = None,
    **config: Any,
) -> tuple[Scheduler, ScriptedPolicy]:
    tokenizer = CharTokenizer()
    policy = policy or ScriptedPolicy(script, tokenizer=tokenizer)
    settings: dict[str, Any] = {"prompt": "question", "search_retries": 0} | config
    scheduler = Scheduler(
        policy=policy, retriever=retriever or ListRetriever([]), tokenizer=tokenizer, live=True,
        config=RolloutConfig(**settings), clock=clock or FakeClock(),
    )  # fmt: skip
    return scheduler, policy


def add(scheduler: Scheduler, count: int, *, config: RolloutConfig | None = None, **settings: Any) -> list[Episode]:
    questions = [Question(id=f"q{i}", text="who?", golden_answers=()) for i in range(count)]
    config = config or scheduler.config
    prompts = make_prompts(questions, num_rollouts=1, tokenizer=CharTokenizer(), config=config)
    return [
        scheduler.add(question, prompt=prompt, seed=0, config=config, **settings)
        for question, prompt in zip(questions, prompts, strict=True)
    ]


def play_all(scheduler: Scheduler, policy: ScriptedPolicy) -> None:
    try:
        for completion in policy.generate(scheduler):
            scheduler.accept(completion)
    finally:
        scheduler.close()


def test_a_listener_hears_of_every_turn_search_and_end() -> None:
    clock, tokenizer, heard = FakeClock(), CharTokenizer(), Recorder()
    policy = TickingPolicy([[SEARCH.format("a"), ANSWER.format("x")]], tokenizer=tokenizer, clock=clock)
    scheduler, _ = live([], policy=policy, clock=clock)
    add(scheduler, 1, listener=heard)
    scheduler.finish()
    play_all(scheduler, policy)
    assert heard.seen == ["turn", "documents", "turn", "answer"]
    assert 0 < heard.seconds <= clock.now()


def test_a_question_that_comes_while_nothing_happens_wakes_the_policy() -> None:
    scheduler, policy = live(lambda episode, turn: ANSWER.format(episode))
    thread = threading.Thread(target=play_all, args=(scheduler, policy))
    thread.start()
    heard = Recorder()
    add(scheduler, 1, listener=heard)
    scheduler.finish()
    thread.join(20)
    assert heard.seen == ["turn", "answer"]
    with pytest.raises(PolicyError, match="no more questions"):
        add(scheduler, 1)


def test_an_episode_may_have_settings_of_its_own(documents: list[Document]) -> None:
    scheduler, policy = live(
        lambda episode, turn: SEARCH.format("a") if turn == 0 else ANSWER.format("x"),
        retriever=ListRetriever(documents),
    )
    (first,) = add(scheduler, 1)
    (second,) = add(scheduler, 1, config=replace(scheduler.config, top_k=1))
    scheduler.finish()
    play_all(scheduler, policy)
    assert [len(episode.turns[0].documents) for episode in (first, second)] == [3, 1]


def test_a_cancelled_episode_is_given_up_wherever_it_is() -> None:
    retriever = SignallingRetriever([])
    scheduler, policy = live(
        [[SEARCH.format("a")], [ANSWER.format("x")], ["never"]], retriever=retriever, concurrency=2
    )
    heard = [Recorder() for _ in range(3)]
    episodes = [add(scheduler, 1, listener=listener)[0] for listener in heard]
    scheduler.cancel(episodes[2])  # it has not begun

    class CancelsSearch(Recorder):
        def turn_written(self, episode: Episode) -> None:
            scheduler.cancel(episode)

    episodes[0].listener = heard[0] = CancelsSearch()
    scheduler.finish()
    play_all(scheduler, policy)
    retriever.may_end.set()
    assert [listener.seen[-1].partition(":")[0] for listener in heard] == ["given up", "answer", "given up"]
    assert scheduler.num_alive == 0


def test_abandoned_episodes_hear_why() -> None:
    scheduler, policy = live([[SEARCH.format("a")]])
    heard = Recorder()
    add(scheduler, 1, listener=heard)
    scheduler.abandon(PolicyError("shutting down"))
    play_all(scheduler, policy)
    assert heard.seen == ["given up: shutting down"]


def test_waiting_for_ones_turn_counts_towards_the_deadline() -> None:
    clock, tokenizer = FakeClock(), CharTokenizer()
    policy = TickingPolicy(lambda e, t: ANSWER.format(e), tokenizer=tokenizer, ticks_per_turn=4, clock=clock)
    scheduler, _ = live([], policy=policy, clock=clock, concurrency=1, deadline_s=6.0)
    heard = Recorder()
    add(scheduler, 1)
    add(scheduler, 1, listener=heard)
    scheduler.finish()
    play_all(scheduler, policy)
    assert heard.seen == ["deadline"]


def test_a_retriever_that_breaks_ends_the_questions_that_asked_it_alone() -> None:
    class Broken(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise KeyError("a bug")

    scheduler, policy = live([[SEARCH.format("a")], [ANSWER.format("x")]], retriever=Broken([]))
    broken, fine = add(scheduler, 2)
    scheduler.finish()
    play_all(scheduler, policy)
    assert (broken.stop_reason, fine.stop_reason) == (StopReason.SEARCH_FAILED, StopReason.ANSWER)
    assert "KeyError" in str(broken.error)
