"""A batch of questions: bad input, bookkeeping, and policies that do not keep to the protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from calibadv.errors import (
    ConfigError,
    DataError,
    PolicyError,
)
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
from calibadv.trajectory import Document, Question

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
Play = Callable[..., RolloutResult]


def test_no_questions_are_refused(play: Play) -> None:
    with pytest.raises(DataError, match="no questions"):
        play([])


def test_the_same_question_twice_is_refused(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    tokenizer = CharTokenizer()
    with pytest.raises(DataError, match=r"'q0'.*2 times.*num_rollouts"):
        rollout(
            questions(1) * 2, num_rollouts=1, policy=ScriptedPolicy([], tokenizer=tokenizer), seed=0,
            retriever=ListRetriever(documents), tokenizer=tokenizer, config=RolloutConfig(),
        )  # fmt: skip


def test_ids_may_repeat_across_data_sets(questions: Callable[[int], list[Question]], documents: list[Document]) -> None:
    tokenizer = CharTokenizer()
    (question,) = questions(1)
    result = rollout(
        [question, dataclasses.replace(question, dataset="other")], num_rollouts=1, seed=0, tokenizer=tokenizer,
        policy=ScriptedPolicy([], tokenizer=tokenizer), retriever=ListRetriever(documents), config=RolloutConfig(),
    )  # fmt: skip
    assert len(result.trajectories) == 2


def test_no_rollouts_and_unknown_prompts_are_refused(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
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
        ("max_context_tokens", 0), ("search_retries", -1), ("temperature", float("nan")),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.{setting} must be"):
        RolloutConfig(**{setting: value})


def test_observation_limit_below_the_tags_is_refused_at_the_start(play: Play) -> None:
    with pytest.raises(ConfigError, match=r"rollout.max_observation_tokens must be >= \d+ .* got 3"):
        play([[ANSWER.format("x")]], max_observation_tokens=3)


@pytest.mark.parametrize("change", [{"temperature": float("inf")}, {"search_timeout_s": 0}, {"deadline_s": -1}])
def test_impossible_limits_are_refused(change: dict[str, Any]) -> None:
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
    assert seconds["generate"] + seconds["search_wait"] + seconds["scheduler"] == pytest.approx(seconds["total"])
    assert seconds["search"] >= 0.05
    assert 0 < seconds["search_wait"] < seconds["total"]
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
    episode: int, message: str, questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    completion = Completion(episode=episode, token_ids=(1,), logprobs=(0.0,), text="a", finish="eos")
    with pytest.raises(PolicyError, match=message):
        rollout(
            questions(2), num_rollouts=1, policy=answering(completion), retriever=ListRetriever(documents),
            tokenizer=CharTokenizer(), config=RolloutConfig(), seed=0,
        )  # fmt: skip


def test_a_policy_that_stops_early_is_caught(
    questions: Callable[[int], list[Question]], documents: list[Document]
) -> None:
    class Lazy:
        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            return iter(())

    with pytest.raises(PolicyError, match="2 episodes unfinished"):
        rollout(
            questions(2), num_rollouts=1, policy=Lazy(), retriever=ListRetriever(documents),
            tokenizer=CharTokenizer(), config=RolloutConfig(), seed=0,
        )  # fmt: skip
