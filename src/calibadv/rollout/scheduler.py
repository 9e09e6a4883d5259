"""Plays many episodes at once: the policy generates for some while others wait for their searches.

The engine is the policy's `RequestQueue`. Its clock is the *tick*, one call of `Engine.take`. Everything that decides
what happens when is counted in ticks, so the same seed, questions and weights give the same trajectories to the bit.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from calibadv.dialogue.observation import render_observation
from calibadv.dialogue.prompt import PROMPTS, render_prompt
from calibadv.errors import ConfigError, DataError, PolicyError, RetrieverError, RetrieverUnavailable
from calibadv.retrieval.base import Retriever
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Episode, Observation, Phase, Prompt, search_observation
from calibadv.rollout.policy import Completion, GenerationRequest, Policy
from calibadv.rollout.search_queue import Batch, Outcome, SearchDesk
from calibadv.rollout.tokenizer import Tokenizer, as_tokenizer
from calibadv.rollout.tokenizer_checks import check_tags
from calibadv.trajectory import Group, Question, StopReason, Trajectory

POLL_S = 0.05
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
    """"total"; its parts "generate" (the policy at work), "search_wait" (standing still for a search) and "engine" (the
    rest: reading actions, rendering, encoding); and "search", the background thread's time."""
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
) -> RolloutResult:
    """Let ``policy`` answer every question ``num_rollouts`` times.

    Raises `RetrieverUnavailable` when the retriever stays away and `PolicyError` when the policy fails; what had
    finished by then is in the error's ``trajectories``.
    """
    start = time.perf_counter()
    engine = Engine(
        questions, num_rollouts=num_rollouts, retriever=retriever, tokenizer=as_tokenizer(tokenizer),
        config=config, seed=seed, progress=progress, keep=keep, policy_context=getattr(policy, "max_context", None),
        asynchronous=getattr(policy, "asynchronous", False),
    )  # fmt: skip
    generate_s = 0.0
    try:
        with closing(_closable(policy.generate(engine))) as completions:
            while True:
                before, inside = time.perf_counter(), engine.seconds
                completion = next(completions, None)
                generate_s += time.perf_counter() - before - (engine.seconds - inside)
                if completion is None:
                    break
                engine.accept(completion)
        engine.check_all_done()
    except (RetrieverUnavailable, PolicyError) as error:
        error.trajectories = tuple(e.trajectory() for e in engine.episodes if e.phase is Phase.DONE)
        raise
    finally:
        engine.close()
    trajectories = tuple(episode.trajectory() for episode in engine.episodes)
    total_s, wait_s = time.perf_counter() - start, engine.desk.wait_s
    return RolloutResult(
        trajectories=trajectories,
        num_rollouts=num_rollouts,
        seconds={
            "total": total_s,
            "generate": generate_s,
            "search_wait": wait_s,
            "engine": total_s - generate_s - wait_s,
            "search": engine.desk.busy_s,
        },
        counters=_count(trajectories, engine),
    )


class Engine:
    """All episodes of one rollout, and the queue from which the policy takes its work."""

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        num_rollouts: int,
        retriever: Retriever,
        tokenizer: Tokenizer,
        config: RolloutConfig,
        seed: int,
        progress: Progress | None = None,
        keep: Keep | None = None,
        policy_context: int | None = None,
        asynchronous: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = [limit for limit in (config.max_context_tokens, policy_context) if limit is not None]
        max_context = min(limits) if limits else None
        prompts = make_prompts(questions, num_rollouts=num_rollouts, tokenizer=tokenizer, config=config)
        check_prompts(questions, prompts, max_context=max_context)
        check_observations(tokenizer, config=config)
        check_tags(tokenizer, name="the policy")
        self.config = config
        self.tokenizer = tokenizer
        self.episodes = [
            Episode(
                question, index=index * num_rollouts + j, rollout_index=j, prompt=prompts[index], config=config,
                tokenizer=tokenizer, max_context=max_context, seed=seed,
            )
            for index, question in enumerate(questions)
            for j in range(num_rollouts)
        ]  # fmt: skip
        self.desk = SearchDesk(retriever, config=config, as_they_come=asynchronous)
        self.tick = 0
        self.seconds = 0.0
        """Spent inside `take` and `ended`, waiting included."""
        self._new = deque(range(len(self.episodes)))
        self._ready: deque[int] = deque()
        self._alive: set[int] = set()
        self._ended: list[int] = []
        self._finished = 0
        self._progress = progress
        self._keep = keep
        self._clock = clock

    # The policy's side.

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        """At most ``room`` turns to generate: those that go on before those that begin."""
        start = time.perf_counter()
        self.tick += 1
        self.desk.submit(tick=self.tick)
        self._take_in(idle=False)
        self._expire()
        while idle and not self._ready and not self._can_begin():
            self.desk.submit(tick=self.tick, now=True)
            if not self._take_in(idle=True):
                break
        requests: list[GenerationRequest] = []
        while len(requests) < room and (self._ready or self._can_begin()):
            requests.append(self._next_episode().request())
        self.seconds += time.perf_counter() - start
        return requests

    def ended(self) -> list[int]:
        """Episodes that ended since the last call, those that ran out of time in the middle of a turn among them."""
        self._expire()
        ended, self._ended = self._ended, []
        return ended

    # The rollout's side.

    def accept(self, completion: Completion) -> None:
        """Take in a turn that the policy has finished."""
        if not 0 <= completion.episode < len(self.episodes):
            raise PolicyError(f"the policy completed episode {completion.episode}, which does not exist")
        episode = self.episodes[completion.episode]
        if episode.phase is Phase.DONE and episode.stop_reason is StopReason.DEADLINE:
            return
        if episode.phase is not Phase.GENERATING:
            raise PolicyError(f"the policy completed episode {completion.episode}, which it was not asked for")
        query = episode.complete(completion)
        if query is not None:
            self.desk.ask(episode.index, query, tick=self.tick)
        self._settle(episode)

    def check_all_done(self) -> None:
        """The policy may only stop when every episode has ended."""
        undone = [episode.index for episode in self.episodes if episode.phase is not Phase.DONE]
        if undone:
            raise PolicyError(f"the policy stopped with {len(undone)} episodes unfinished, episode {undone[0]} first")

    def close(self) -> None:
        self.desk.close()

    # Inside.

    def _can_begin(self) -> bool:
        limit = self.config.concurrency
        return bool(self._new) and (limit is None or len(self._alive) < limit)

    def _next_episode(self) -> Episode:
        if self._ready:
            return self.episodes[self._ready.popleft()]
        episode = self.episodes[self._new.popleft()]
        episode.started_s = self._clock()
        self._alive.add(episode.index)
        return episode

    def _take_in(self, *, idle: bool) -> bool:
        """Take in the searches that are due (idle: the oldest one). False when there was none."""
        took = False
        while (batch := self.desk.next_due(tick=self.tick, idle=idle and not took)) is not None:
            outcomes = self.desk.collect(batch, timeout_s=self._patience_s(batch))
            if outcomes is not None:
                self._deliver(batch, outcomes)
            else:
                self._expire()
                if all(self.episodes[index].phase is Phase.DONE for index, _ in batch.queries):
                    self.desk.drop(batch)
            took = True
        return took

    def _deliver(self, batch: Batch, outcomes: dict[str, Outcome]) -> None:
        observations: dict[str, Observation] = {}
        for index, query in batch.queries:
            episode, outcome = self.episodes[index], outcomes[query]
            if episode.phase is Phase.DONE:
                continue
            if isinstance(outcome, RetrieverError):
                episode.stop(StopReason.SEARCH_FAILED, error=f"search for {query!r} failed: {outcome}")
            else:
                if query not in observations:
                    documents = [hit.document for hit in outcome]
                    observations[query] = search_observation(documents, tokenizer=self.tokenizer, config=self.config)
                episode.observe(observations[query])
            self._settle(episode)

    def _settle(self, episode: Episode) -> None:
        """Queue the episode's next turn or note its end."""
        if episode.phase is Phase.READY:
            self._ready.append(episode.index)
        elif episode.phase is Phase.DONE:
            self._alive.discard(episode.index)
            self._ended.append(episode.index)
            self._finished += 1
            if self._keep is not None:
                assert episode.started_s is not None
                self._keep(episode.trajectory(), self._clock() - episode.started_s)
            if self._progress is not None:
                self._progress(self._finished, len(self.episodes))

    def _patience_s(self, batch: Batch) -> float | None:
        """How long to wait for a batch: until the first of its episodes runs out of time."""
        if self.desk.as_they_come:
            return POLL_S  # another batch may be there first
        if self.config.deadline_s is None:
            return None
        alive = [self.episodes[index] for index, _ in batch.queries if self.episodes[index].phase is not Phase.DONE]
        return max(0.0, min((self._left_s(episode) for episode in alive), default=0.0)) + 1e-3

    def _left_s(self, episode: Episode) -> float:
        assert self.config.deadline_s is not None
        assert episode.started_s is not None
        return episode.started_s + self.config.deadline_s - self._clock()

    def _expire(self) -> None:
        if self.config.deadline_s is None:
            return
        for index in sorted(self._alive):
            episode = self.episodes[index]
            if self._left_s(episode) <= 0:
                episode.stop(
                    StopReason.DEADLINE,
                    error=f"ran longer than rollout.deadline_s = {self.config.deadline_s} s while {episode.phase}",
                )
                if index in self._ready:
                    self._ready.remove(index)
                self._settle(episode)


def make_prompts(
    questions: Sequence[Question], *, num_rollouts: int, tokenizer: Tokenizer, config: RolloutConfig
) -> list[Prompt]:
    """Render and encode each question's prompt once."""
    if num_rollouts < 1:
        raise ConfigError(f"num_rollouts must be >= 1, got {num_rollouts}")
    if not questions:
        raise DataError("there are no questions to roll out")
    names = Counter((question.dataset, question.id) for question in questions)
    (dataset, name), times = names.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"question id {name!r} (data set {dataset!r}) is given {times} times; give it once and raise num_rollouts"
        )
    if config.prompt not in PROMPTS:
        raise ConfigError(f"rollout.prompt must be one of {', '.join(sorted(PROMPTS))}, got {config.prompt!r}")
    template = PROMPTS[config.prompt]
    has_chat = tokenizer.chat([{"role": "user", "content": "?"}]) is not None
    chat = (lambda messages: tokenizer.chat(messages) or "") if has_chat else None
    opening = "" if has_chat else tokenizer.opening()
    prompts = []
    for question in questions:
        text = render_prompt(question.text, template=template, chat=chat, think_prefill=config.think_prefill)
        text = opening + text
        prompts.append(Prompt(text=text, token_ids=tuple(tokenizer.encode(text))))
    return prompts


def check_prompts(questions: Sequence[Question], prompts: Sequence[Prompt], *, max_context: int | None) -> None:
    """Every prompt must leave room for at least one token."""
    for question, prompt in zip(questions, prompts, strict=True):
        if not prompt.token_ids:
            raise DataError(f"question {question.id!r}: its prompt has no token; check the question and the tokenizer")
        if max_context is not None and len(prompt.token_ids) >= max_context:
            raise ConfigError(
                f"question {question.id!r}: its prompt has {len(prompt.token_ids)} tokens, but the context holds "
                f"{max_context}; raise rollout.max_context_tokens (or the policy's max_context) or drop the question"
            )


def check_observations(tokenizer: Tokenizer, *, config: RolloutConfig) -> None:
    """The limit on observations must admit at least the tags of one."""
    text, _ = render_observation((), think_prefill=config.think_prefill)
    least = len(tokenizer.encode(text))
    if least > config.max_observation_tokens:
        raise ConfigError(
            f"rollout.max_observation_tokens must be >= {least} (the tags of an observation without a document), got "
            f"{config.max_observation_tokens}"
        )


def _count(trajectories: Sequence[Trajectory], engine: Engine) -> dict[str, int]:
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    return {
        "ticks": engine.tick,
        "turns": len(turns),
        "searches": sum(len(trajectory.search_turns) for trajectory in trajectories),
        "distinct_queries": engine.desk.distinct_queries,
        "search_calls": engine.desk.calls,
        "prompt_tokens": sum(len(trajectory.prompt_token_ids) for trajectory in trajectories),
        "generated_tokens": sum(len(turn.token_ids) for turn in turns),
        "observation_tokens": sum(len(turn.observation_token_ids) for turn in turns),
        "failed": sum(trajectory.failed for trajectory in trajectories),
    }


def _closable(completions: Iterator[Completion]) -> Any:
    if hasattr(completions, "close"):
        return completions
    return (completion for completion in completions)
