"""Plays a fixed set of questions, each several times: the rollouts of a training batch or of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from calibadv.errors import PolicyError, RetrieverUnavailable
from calibadv.io.clock import SYSTEM_CLOCK, Clock
from calibadv.retrieval.base import Retriever
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Episode, Listener, Phase
from calibadv.rollout.policy import Completion, Policy
from calibadv.rollout.prompts import check_prompts, make_prompts
from calibadv.rollout.scheduler import Scheduler
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.trajectory import Group, Question, Trajectory

Progress = Callable[[int, int], None]
"""Called with (trajectories finished, trajectories in all) whenever one finishes."""
Keep = Callable[[Trajectory, float], None]
"""Called with each trajectory as it finishes, and the seconds since it began. What it raises ends the rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutResult:
    """What a rollout gave."""

    trajectories: tuple[Trajectory, ...]  # [num_questions * num_rollouts], question by question
    num_rollouts: int
    seconds: Mapping[str, float]
    """"total"; its parts "generate" (the policy at work), "search_wait" (standing still for a search) and "scheduler"
    (the rest: reading actions, rendering, encoding); and "search", the background threads' time."""
    counters: Mapping[str, int]
    """ticks, turns, searches (carried out), distinct_queries, search_calls, prompt_tokens, generated_tokens,
    observation_tokens, failed (trajectories)."""

    def groups(self) -> tuple[Group, ...]:
        """The trajectories by question."""
        size = self.num_rollouts
        return tuple(
            Group(question=self.trajectories[i].question, trajectories=self.trajectories[i : i + size])
            for i in range(0, len(self.trajectories), size)
        )


def rollout(
    questions: Sequence[Question],
    *,
    num_rollouts: int,
    policy: Policy,
    retriever: Retriever,
    tokenizer: Any,
    config: RolloutConfig,
    seed: int,
    progress: Progress | None = None,
    keep: Keep | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RolloutResult:
    """Let ``policy`` answer every question ``num_rollouts`` times.

    Args:
        questions: Each once; ids are unique within a data set.
        num_rollouts: Trajectories of each question.
        policy: What writes the turns.
        retriever: What is searched.
        tokenizer: One of calibadv's (`Tokenizer`) or of transformers.
        config: How episodes are played.
        seed: Seeds every draw, together with the names of question, rollout and turn.
        progress: Is told of every trajectory that finishes.
        keep: Is given every trajectory as it finishes.
        clock: Times deadlines and the waits between attempts of a search.

    Returns:
        The trajectories in the order of the questions, with where the time went.

    Raises:
        ConfigError: A prompt leaves no room in the context, or the tokenizer cannot write the tags.
        RetrieverUnavailable: The retriever was unreachable at every attempt.
        PolicyError: The policy failed. Of both, ``trajectories`` holds what had finished by then.
    """
    start = time.perf_counter()
    tokenizer = as_tokenizer(tokenizer)
    prompts = make_prompts(questions, num_rollouts=num_rollouts, tokenizer=tokenizer, config=config)
    scheduler = Scheduler(policy=policy, retriever=retriever, tokenizer=tokenizer, config=config, clock=clock)
    check_prompts(questions, prompts, max_context=scheduler.max_context)
    listener = _Counting(len(questions) * num_rollouts, progress=progress, keep=keep)
    episodes = [
        scheduler.add(question, prompt=prompt, seed=seed, rollout_index=index, listener=listener)
        for question, prompt in zip(questions, prompts, strict=True)
        for index in range(num_rollouts)
    ]
    scheduler.finish()
    generate_s = 0.0
    try:
        with closing(_closable(policy.generate(scheduler))) as completions:
            while True:
                before, inside = time.perf_counter(), scheduler.take_s
                completion = next(completions, None)
                generate_s += time.perf_counter() - before - (scheduler.take_s - inside)
                if completion is None:
                    break
                scheduler.accept(completion)
        scheduler.check_all_done()
    except (RetrieverUnavailable, PolicyError) as error:
        error.trajectories = tuple(episode.trajectory() for episode in episodes if episode.phase is Phase.DONE)
        raise
    finally:
        scheduler.close()
    trajectories = tuple(episode.trajectory() for episode in episodes)
    total_s = time.perf_counter() - start
    return RolloutResult(
        trajectories=trajectories,
        num_rollouts=num_rollouts,
        seconds={
            "total": total_s,
            "generate": generate_s,
            "search_wait": scheduler.wait_s,
            "scheduler": total_s - generate_s - scheduler.wait_s,
            "search": scheduler.searches.busy_s,
        },
        counters=_count(trajectories, scheduler),
    )


class _Counting(Listener):
    """Passes on what finishes."""

    def __init__(self, total: int, *, progress: Progress | None, keep: Keep | None) -> None:
        self._total = total
        self._finished = 0
        self._progress = progress
        self._keep = keep

    def finished(self, episode: Episode, *, seconds: float) -> None:
        self._finished += 1
        if self._keep is not None:
            self._keep(episode.trajectory(), seconds)
        if self._progress is not None:
            self._progress(self._finished, self._total)


def _count(trajectories: Sequence[Trajectory], scheduler: Scheduler) -> dict[str, int]:
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    return {
        "ticks": scheduler.tick,
        "turns": len(turns),
        "searches": sum(len(trajectory.search_turns) for trajectory in trajectories),
        "distinct_queries": scheduler.searches.distinct_queries,
        "search_calls": scheduler.searches.calls,
        "prompt_tokens": sum(len(trajectory.prompt_token_ids) for trajectory in trajectories),
        "generated_tokens": sum(len(turn.token_ids) for turn in turns),
        "observation_tokens": sum(len(turn.observation_token_ids) for turn in turns),
        "failed": sum(trajectory.failed for trajectory in trajectories),
    }


def _closable(completions: Iterator[Completion]) -> Any:
    if hasattr(completions, "close"):
        return completions
    return (completion for completion in completions)
