"""`SteppingPolicy` over a scripted engine: who is written when, one wake and one sleep, and processes in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from calibadv.errors import ConfigError, PolicyError, RetrieverError, RetrieverUnavailable
from calibadv.io.clock import SYSTEM_CLOCK, Clock, FakeClock
from calibadv.retrieval.base import Hit
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import CharTokenizer, Completion, GenerationRequest, RolloutConfig, RolloutResult, rollout
from calibadv.rollout.policies.scripted import cut
from calibadv.rollout.policies.stepping import Exchange, Key, News, SteppingPolicy
from calibadv.trajectory import Document, Question, StopReason

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
NUM_STEPS = 5


class ScriptedEngine:
    """Writes each turn in as many steps as it is told, and keeps a diary of what was asked of it."""

    max_context = 4096

    def __init__(
        self,
        text: Callable[[Key, int], str],
        *,
        steps: Callable[[Key, int], int] = lambda key, turn: NUM_STEPS,
        max_rows: int = 4,
    ) -> None:
        self.max_rows = max_rows
        self.diary: list[tuple[str, Any]] = []
        self.num_steps = 0
        self.writing: dict[Key, tuple[int, Completion]] = {}
        self._text = text
        self._steps = steps
        self._turns: dict[Key, int] = {}

    def wake(self) -> None:
        self.diary.append(("wake", None))

    def sleep(self) -> None:
        assert not self.writing
        self.diary.append(("sleep", None))

    def add(self, key: Key, request: GenerationRequest) -> None:
        turn = self._turns[key] = self._turns.get(key, -1) + 1
        text, finish = cut(self._text(key, turn), request.params)
        ids = tuple(CharTokenizer().encode(text))
        completion = Completion(
            episode=request.episode, token_ids=ids, logprobs=(0.0,) * len(ids), text=text, finish=finish
        )
        assert len(self.writing) < self.max_rows
        self.writing[key] = self._steps(key, turn), completion
        self.diary.append(("add", key))

    def abort(self, keys: Sequence[Key]) -> None:
        for key in keys:
            del self.writing[key]
            self.diary.append(("abort", key))

    def step(self) -> list[tuple[Key, Completion]]:
        assert self.writing
        self.num_steps += 1
        self.diary.append(("step", None))
        self.writing = {key: (left - 1, completion) for key, (left, completion) in self.writing.items()}
        done = [(key, completion) for key, (left, completion) in self.writing.items() if not left]
        for key, _ in done:
            del self.writing[key]
        return done

    def kinds(self) -> list[str]:
        """What was asked, in order, without the steps."""
        return [kind for kind, _ in self.diary if kind != "step"]


Play = Callable[..., RolloutResult]


@pytest.fixture
def play_steps(questions: Callable[[int], list[Question]], documents: list[Document]) -> Play:
    def run(
        policy: SteppingPolicy, *, count: int, retriever: Any = None, clock: Clock = SYSTEM_CLOCK, **config: Any
    ) -> RolloutResult:
        settings: dict[str, Any] = {"prompt": "question", "search_retries": 0} | config
        return rollout(
            questions(count), num_rollouts=1, policy=policy, tokenizer=CharTokenizer(), seed=0,
            retriever=retriever or ListRetriever(documents), config=RolloutConfig(**settings), clock=clock,
        )  # fmt: skip

    return run


def searches_once(key: Key, turn: int) -> str:
    return SEARCH.format(f"query {key[1]}") if turn == 0 else ANSWER.format(key[1])


def test_all_turns_of_a_rollout_are_written_between_one_wake_and_one_sleep(play_steps: Play) -> None:
    engine = ScriptedEngine(searches_once)
    policy = SteppingPolicy(engine)
    result = play_steps(policy, count=6)
    assert [t.answer for t in result.trajectories] == [str(n) for n in range(6)]
    assert engine.kinds() == ["wake", *["add"] * 12, "sleep"]


def test_a_finished_turn_is_replaced_before_the_next_step(play_steps: Play) -> None:
    """Rows of 2: the short turns of others come and go while a long one is being written."""
    engine = ScriptedEngine(
        lambda key, turn: ANSWER.format("x"), steps=lambda key, turn: 9 if key[1] == 0 else 3, max_rows=2
    )
    play_steps(SteppingPolicy(engine), count=4)
    assert engine.num_steps == 9
    steps_before = [
        sum(kind == "step" for kind, _ in engine.diary[:n]) for n, e in enumerate(engine.diary) if e[0] == "add"
    ]
    assert steps_before == [0, 0, 3, 6]


def test_a_slow_search_holds_up_nobody(play_steps: Play, documents: list[Document]) -> None:
    """The search of one episode comes back only after all others have ended, and they do end."""
    others_done = threading.Event()

    def search(query: str) -> list[Document]:
        if query == "query 0":
            assert others_done.wait(60)
        return documents[:1]

    finished: list[str] = []

    class Watched(ScriptedEngine):
        def step(self) -> list[tuple[Key, Completion]]:
            done = super().step()
            finished.extend(str(key[1]) for key, _ in done)
            if {"1", "2"} <= set(finished):
                others_done.set()
            return done

    engine = Watched(
        lambda key, turn: searches_once(key, turn) if key[1] == 0 else ANSWER.format("x"),
        steps=lambda key, turn: 1 if key[1] == 0 else 6,
    )
    policy = SteppingPolicy(engine)
    result = play_steps(policy, count=3, retriever=ListRetriever(search))
    assert finished == ["0", "1", "2", "0"]
    assert not any(t.failed for t in result.trajectories)


def test_a_turn_whose_episode_ends_meanwhile_is_given_up(play_steps: Play) -> None:
    """A step takes a second here; episode 0 would take for ever."""
    clock = FakeClock()

    class Slow(ScriptedEngine):
        def step(self) -> list[tuple[Key, Completion]]:
            clock.time += 1
            return super().step()

    engine = Slow(lambda key, turn: ANSWER.format("x"), steps=lambda key, turn: 2 if key[1] else 10**9)
    result = play_steps(SteppingPolicy(engine), count=2, deadline_s=5.0, clock=clock)
    assert [t.stop_reason for t in result.trajectories] == [StopReason.DEADLINE, StopReason.ANSWER]
    assert engine.kinds()[-2:] == ["abort", "sleep"]
    assert engine.num_steps == 5


class Unreachable(ListRetriever):
    """The first search works; then nobody answers."""

    def __init__(self, documents: list[Document], *, at: int) -> None:
        super().__init__(documents)
        self.left = at

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.left -= 1
        if self.left < 0:
            raise RetrieverError("gone", is_transient=False)
        return super().search(queries, k)


def test_when_the_retriever_dies_the_engine_is_emptied_and_sleeps(play_steps: Play, documents: list[Document]) -> None:
    engine = ScriptedEngine(
        lambda key, turn: SEARCH.format("q") if key[1] == 0 else ANSWER.format("x"),
        steps=lambda key, turn: 1 if key[1] == 0 else 10**9,
    )
    with pytest.raises(RetrieverUnavailable):
        play_steps(SteppingPolicy(engine), count=2, retriever=Unreachable(documents, at=0))
    assert engine.kinds()[-2:] == ["abort", "sleep"]


def test_a_context_longer_than_the_engines_is_refused() -> None:
    class Queue:
        def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
            from calibadv.rollout import SamplingParams

            return [GenerationRequest(episode=0, token_ids=(1,) * 4096, params=SamplingParams(), seed=0)]

        def ended(self) -> list[int]:
            return []

    engine = ScriptedEngine(searches_once)
    with pytest.raises(PolicyError, match=r"has 4096 tokens, but the engine holds 4096; raise model\.max_context"):
        list(SteppingPolicy(engine).generate(Queue()))
    assert engine.kinds() == ["wake", "sleep"]


# Processes that share an engine: each is a thread here, with its own copy of the engine.


class Group:
    """What ``torch.distributed.all_gather_object`` does, between threads."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=60)
        self._news: list[Any] = [None] * size

    def exchange(self, rank: int) -> Exchange:
        def gather(news: News) -> list[News]:
            self._news[rank] = news
            self._barrier.wait()
            everyone = list(self._news)
            self._barrier.wait()
            return everyone

        return gather


def play_together(play_steps: Play, engines: list[ScriptedEngine], *, counts: list[int], retrievers: Any) -> list[Any]:
    """Each process plays questions of its own; what it got, or what it raised."""
    group = Group(len(engines))

    def one(rank: int) -> Any:
        policy = SteppingPolicy(engines[rank], exchange=group.exchange(rank), rank=rank, num_processes=len(engines))
        try:
            return play_steps(policy, count=counts[rank], retriever=retrievers[rank])
        except (PolicyError, RetrieverUnavailable) as error:
            return error

    with ThreadPoolExecutor(len(engines)) as pool:
        return list(pool.map(one, range(len(engines))))


def test_processes_that_share_an_engine_ask_the_same_of_it_in_the_same_order(
    play_steps: Play, documents: list[Document]
) -> None:
    """Searches that take different times in each process change nothing about that; each gets its own answers."""

    def text(key: Key, turn: int) -> str:
        return SEARCH.format(f"{key}") if turn < key[1] % 3 else ANSWER.format(f"{key[0]}-{key[1]}")

    engines = [ScriptedEngine(text, steps=lambda key, turn: 1 + (key[0] + key[1] + turn) % 4) for _ in range(2)]
    results = play_together(play_steps, engines, counts=[5, 2], retrievers=[None, None])
    assert [t.answer for t in results[0].trajectories] == [f"0-{n}" for n in range(5)]
    assert [t.answer for t in results[1].trajectories] == [f"1-{n}" for n in range(2)]
    assert engines[0].diary == engines[1].diary
    assert engines[0].kinds().count("wake") == engines[0].kinds().count("sleep") == 1
    assert sum(kind == "add" for kind in engines[0].kinds()) == sum(
        len(t.turns) for r in results for t in r.trajectories
    )


def test_the_death_of_one_process_retriever_ends_the_rollout_in_all(
    play_steps: Play, documents: list[Document]
) -> None:
    engines = [ScriptedEngine(searches_once, steps=lambda key, turn: 1 + 3 * key[0]) for _ in range(2)]
    dead, alive = Unreachable(documents, at=0), ListRetriever(documents)
    first, second = play_together(play_steps, engines, counts=[2, 2], retrievers=[dead, alive])
    assert isinstance(first, RetrieverUnavailable)
    assert "another process" not in str(first)
    assert isinstance(second, RetrieverUnavailable)
    assert "in another process" in str(second)
    assert [engine.kinds()[-1] for engine in engines] == ["sleep", "sleep"]


def test_a_group_without_an_exchange_is_refused() -> None:
    with pytest.raises(ConfigError, match="no exchange"):
        SteppingPolicy(ScriptedEngine(searches_once), num_processes=2)
