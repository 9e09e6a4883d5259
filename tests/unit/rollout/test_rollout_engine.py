"""The engine: bad input, overlap of searches and generation, batching, deadlines, bookkeeping."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from calibadv.errors import (
    ConfigError,
    DataError,
    PolicyError,
    RetrieverError,
    RetrieverUnavailable,
    TokenMismatchError,
)
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
from calibadv.rollout.scheduler import Engine
from calibadv.trajectory import Document, StopReason

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
Play = Callable[..., RolloutResult]


def test_no_questions_are_refused(play: Play) -> None:
    with pytest.raises(DataError, match="no questions"):
        play([])


def test_the_same_question_twice_is_refused(questions: Any, documents: list[Document]) -> None:
    tokenizer = CharTokenizer()
    with pytest.raises(DataError, match=r"'q0'.*2 times.*num_rollouts"):
        rollout(
            questions(1) * 2, num_rollouts=1, policy=ScriptedPolicy([], tokenizer=tokenizer), seed=0,
            retriever=ListRetriever(documents), tokenizer=tokenizer, config=RolloutConfig(),
        )  # fmt: skip


def test_ids_may_repeat_across_data_sets(questions: Any, documents: list[Document]) -> None:
    tokenizer = CharTokenizer()
    (question,) = questions(1)
    result = rollout(
        [question, dataclasses.replace(question, dataset="other")], num_rollouts=1, seed=0, tokenizer=tokenizer,
        policy=ScriptedPolicy([], tokenizer=tokenizer), retriever=ListRetriever(documents), config=RolloutConfig(),
    )  # fmt: skip
    assert len(result.trajectories) == 2


def test_no_rollouts_and_unknown_prompts_are_refused(questions: Any, documents: list[Document]) -> None:
    tokenizer = CharTokenizer()
    settings: dict[str, Any] = {
        "policy": ScriptedPolicy([], tokenizer=tokenizer), "retriever": ListRetriever(documents),
        "tokenizer": tokenizer, "seed": 0,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="num_rollouts must be >= 1, got 0"):
        rollout(questions(1), num_rollouts=0, config=RolloutConfig(), **settings)
    with pytest.raises(ConfigError, match=r"rollout\.prompt must be one of .*got 'poem'"):
        rollout(questions(1), num_rollouts=1, config=RolloutConfig(prompt="poem"), **settings)


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_generated(play: Play) -> None:
    with pytest.raises(ConfigError, match=r"question 'q0': its prompt has 23 tokens.*holds 23.*max_context_tokens"):
        play([[ANSWER.format("x")]], max_context_tokens=23)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("top_k", 0), ("max_searches", -1), ("max_turn_tokens", 0), ("temperature", -0.1), ("top_p", 0.0),
        ("top_p", 1.1), ("on_invalid", "ignore"), ("deadline_s", 0.0), ("search_window", 0), ("concurrency", 0),
        ("max_context_tokens", 0), ("retry_wait_s", -1.0), ("temperature", float("nan")),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.{setting} must be"):
        RolloutConfig(**{setting: value})


class SignallingRetriever(ListRetriever):
    """A search ends only after the policy has gone on generating."""

    def __init__(self, documents: Sequence[Document]) -> None:
        super().__init__(documents)
        self.may_end = threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        assert self.may_end.wait(timeout=10)
        return super().search(queries, k)


def test_generation_goes_on_while_a_search_runs(questions: Any, documents: list[Document]) -> None:
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


def test_queries_within_the_window_go_in_one_call_and_equal_ones_once(play: Play, documents: list[Document]) -> None:
    retriever = ListRetriever(documents)
    scripts = [[SEARCH.format(query), ANSWER.format("x")] for query in ("a", "b", "a", "a")]
    result = play(scripts, retriever=retriever)
    assert retriever.calls == [("a", "b")]
    assert (result.counters["searches"], result.counters["distinct_queries"]) == (4, 2)
    assert len({t.turns[0].observation for t in result.trajectories}) == 1


def test_a_longer_window_makes_fewer_calls(play: Play, documents: list[Document]) -> None:
    scripts = [[SEARCH.format(f"{i} {j}") for j in range(3)] + [ANSWER.format("x")] for i in range(8)]
    calls = [
        play(scripts, search_window=window, search_overlap=2, max_rows=2).counters["search_calls"] for window in (1, 4)
    ]
    assert calls[1] < calls[0]


def test_without_overlap_a_search_is_waited_for(play: Play, documents: list[Document]) -> None:
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
    class Slow(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if "slow" in queries:
                time.sleep(0.4)
            return super().search(queries, k)

    scripts = [[SEARCH.format("slow"), ANSWER.format("x")], [ANSWER.format("x")]]
    slow, quick = play(scripts, retriever=Slow(documents), deadline_s=0.1).trajectories
    assert (slow.stop_reason, quick.stop_reason) == (StopReason.DEADLINE, StopReason.ANSWER)
    assert slow.failed
    assert "deadline_s = 0.1" in str(slow.error)


def test_an_episode_that_runs_out_of_time_while_it_is_written_is_dropped_by_the_policy(
    questions: Any, documents: list[Document]
) -> None:
    now = [0.0]
    tokenizer = CharTokenizer()
    engine = Engine(
        questions(1), num_rollouts=1, retriever=ListRetriever(documents), tokenizer=tokenizer, seed=0,
        config=RolloutConfig(deadline_s=5.0), clock=lambda: now[0],
    )  # fmt: skip
    policy = ScriptedPolicy([[ANSWER.format("x")]], tokenizer=tokenizer, ticks_per_turn=10)
    taken = engine.take

    def take(room: int, *, idle: bool) -> Any:
        now[0] += 1.0
        return taken(room, idle=idle)

    engine.take = take  # type: ignore[method-assign]
    assert list(policy.generate(engine)) == []
    engine.check_all_done()
    engine.close()
    assert engine.episodes[0].trajectory().stop_reason is StopReason.DEADLINE


def test_without_a_good_query_one_failing_search_means_the_retriever_is_away(play: Play) -> None:
    with pytest.raises(RetrieverUnavailable):
        play([[SEARCH.format("a")]], retriever=ListRetriever([], fail_on={"a"}))


def test_a_retriever_that_says_it_is_away_is_not_asked_again(play: Play) -> None:
    class Away(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            self.calls.append(tuple(queries))
            raise RetrieverUnavailable("gone")

    retriever = Away([])
    with pytest.raises(RetrieverUnavailable, match="gone"):
        play([[SEARCH.format("a")]], retriever=retriever, search_retries=5)
    assert len(retriever.calls) == 1


def test_a_retriever_that_answers_too_few_queries_has_failed(play: Play) -> None:
    class Short(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return []

    with pytest.raises(RetrieverError, match="answered 0 of 1"):
        play([[SEARCH.format("a")]], retriever=Short([]))


def test_other_errors_of_a_retriever_are_not_swallowed(play: Play) -> None:
    class Broken(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        play([[SEARCH.format("a")]], retriever=Broken([]))


def test_search_that_hangs_is_given_up_and_tried_again(play: Play, documents: list[Document]) -> None:
    hangs = threading.Event()

    class HangsOnce(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if not hangs.is_set():
                hangs.set()
                time.sleep(5)
            return super().search(queries, k)

    start = time.monotonic()
    scripts = [[SEARCH.format("a"), ANSWER.format("x")]]
    (trajectory,) = play(scripts, retriever=HangsOnce(documents), search_timeout_s=0.1, search_retries=1).trajectories
    assert trajectory.stop_reason is StopReason.ANSWER
    assert time.monotonic() - start < 4


def test_retriever_that_always_hangs_is_away(play: Play) -> None:
    with pytest.raises(RetrieverUnavailable, match=r"rollout.search_timeout_s = 0.05 s"):
        play([[SEARCH.format("a")]], retriever=ListRetriever([], seconds=1.0), search_timeout_s=0.05, search_retries=1)


def test_observation_limit_below_the_tags_is_refused_at_the_start(play: Play) -> None:
    with pytest.raises(ConfigError, match=r"rollout.max_observation_tokens must be >= \d+ .* got 3"):
        play([[ANSWER.format("x")]], max_observation_tokens=3)


@pytest.mark.parametrize("change", [{"temperature": float("inf")}, {"search_timeout_s": 0}, {"deadline_s": -1}])
def test_impossible_limits_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        RolloutConfig(**change)


def test_an_empty_result_is_an_empty_observation(play: Play) -> None:
    (trajectory,) = play([[SEARCH.format("a"), ANSWER.format("x")]], retriever=ListRetriever([])).trajectories
    assert trajectory.turns[0].observation == "\n\n<information></information>\n\n<think>"
    assert trajectory.queries == ("a",)


def test_progress_is_told_of_every_trajectory(play: Play) -> None:
    seen: list[tuple[int, int]] = []
    play([[ANSWER.format("x")]] * 3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_seconds_and_counters_add_up(play: Play, documents: list[Document]) -> None:
    retriever = ListRetriever(documents, seconds=0.05)
    result = play([[SEARCH.format("a"), ANSWER.format("x")]] * 2, retriever=retriever)
    seconds, counters = result.seconds, result.counters
    assert seconds["generate"] + seconds["search_wait"] + seconds["engine"] == pytest.approx(seconds["total"])
    assert seconds["search"] >= 0.05
    assert 0.03 < seconds["search_wait"] < seconds["total"]
    assert counters["turns"] == 4
    assert counters["generated_tokens"] == 2 * len(SEARCH.format("a") + ANSWER.format("x"))


def answering(completion: Completion) -> Any:
    class Rogue:
        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            requests.take(1, idle=True)
            return iter([completion])

    return Rogue()


@pytest.mark.parametrize(("episode", "message"), [(5, "does not exist"), (1, "not asked for")])
def test_a_policy_that_completes_what_it_was_not_given_is_caught(
    episode: int, message: str, questions: Any, documents: list[Document]
) -> None:
    completion = Completion(episode=episode, token_ids=(1,), logprobs=(0.0,), text="a", finish="eos")
    with pytest.raises(PolicyError, match=message):
        rollout(
            questions(2), num_rollouts=1, policy=answering(completion), retriever=ListRetriever(documents),
            tokenizer=CharTokenizer(), config=RolloutConfig(), seed=0,
        )  # fmt: skip


def test_a_policy_that_stops_early_is_caught(questions: Any, documents: list[Document]) -> None:
    class Lazy:
        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            return iter(())

    with pytest.raises(PolicyError, match="2 episodes unfinished"):
        rollout(
            questions(2), num_rollouts=1, policy=Lazy(), retriever=ListRetriever(documents),
            tokenizer=CharTokenizer(), config=RolloutConfig(), seed=0,
        )  # fmt: skip


def test_token_ids_that_change_under_way_are_caught(questions: Any, documents: list[Document]) -> None:
    engine = Engine(
        questions(1), num_rollouts=1, retriever=ListRetriever(documents), tokenizer=CharTokenizer(), seed=0,
        config=RolloutConfig(),
    )  # fmt: skip
    engine.episodes[0].context[3] += 1
    with pytest.raises(TokenMismatchError, match=r"question 'q0', rollout 0.*first difference at 3"):
        engine.take(1, idle=True)
    engine.close()
