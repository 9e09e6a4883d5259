"""Plays many episodes at once: the policy generates for some while others wait for their searches.

The scheduler is the policy's `RequestQueue`. It plays a fixed set of questions in a reproducible order
(`calibadv.rollout.batch`) or, when it is ``live``, questions that come at any time (`calibadv.agent`).

Its clock is the *tick*, one call of `Scheduler.take`. In order, everything that decides what happens when is counted in
ticks: a search is waited for at the tick at which it is due, however long it took, so the same seed, questions and
weights give the same trajectories to the bit. Live, and with an asynchronous policy, results are taken as they come.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress

from calibadv.errors import CalibAdvError, PolicyError, RetrieverError
from calibadv.io.clock import SYSTEM_CLOCK, Clock
from calibadv.retrieval.base import Retriever
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Episode, Listener, Observation, Phase, Prompt, search_observation
from calibadv.rollout.policy import Completion, GenerationRequest, Policy
from calibadv.rollout.prompts import check_observations
from calibadv.rollout.search_queue import Outcome, SearchBatch, SearchQueue
from calibadv.rollout.tokenizer import Tokenizer
from calibadv.rollout.tokenizer_checks import check_tags
from calibadv.trajectory import Question, StopReason

POLL_S = 0.05


class Scheduler:
    """The episodes that are being played, and the queue from which the policy takes its work. Safe in any thread."""

    def __init__(
        self,
        *,
        policy: Policy,
        retriever: Retriever,
        tokenizer: Tokenizer,
        config: RolloutConfig,
        live: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_observations(tokenizer, config=config)
        check_tags(tokenizer, name="the policy")
        limits = [n for n in (config.max_context_tokens, getattr(policy, "max_context", None)) if n is not None]
        self.max_context = min(limits) if limits else None
        self.config = config
        self.tick = 0
        self.take_s = 0.0
        """Seconds inside `take`, waiting included."""
        self.wait_s = 0.0
        """Seconds of standing still for a search."""
        self._tokenizer = tokenizer
        self._live = live
        self._in_order = not live and not getattr(policy, "asynchronous", False)
        self._clock = clock
        self._changed = threading.Condition()  # its lock guards everything below
        self.searches = SearchQueue(retriever, config=config, clock=clock, on_done=self._notify)
        self._added = 0
        self._episodes: dict[int, Episode] = {}  # that are not over
        self._begun: set[int] = set()  # of these
        self._timed: dict[int, Episode] = {}  # of these, those with a deadline whose clock runs
        self._new: deque[Episode] = deque()
        self._ready: deque[Episode] = deque()
        self._ended: list[int] = []
        self._interrupted: set[int] = set()  # ended in the middle of a turn, which may yet be completed
        self._cancelled: deque[int] = deque()
        self._may_come = True

    # For callers that ask questions one by one.

    def add(
        self,
        question: Question,
        *,
        prompt: Prompt,
        seed: int,
        rollout_index: int = 0,
        config: RolloutConfig | None = None,
        listener: Listener | None = None,
    ) -> Episode:
        """Queue an episode; one of a live scheduler may have settings of its own, except those of searches."""
        with self._changed:
            if not self._may_come:
                raise PolicyError("the scheduler takes no more questions")
            episode = Episode(
                question, index=self._added, rollout_index=rollout_index, prompt=prompt, config=config or self.config,
                tokenizer=self._tokenizer, max_context=self.max_context, seed=seed, listener=listener or Listener(),
            )  # fmt: skip
            self._added += 1
            self._episodes[episode.index] = episode
            self._new.append(episode)
            if self._live:
                self._start_clock(episode)  # somebody is waiting from now on
            self._changed.notify_all()
            return episode

    def cancel(self, episode: Episode) -> None:
        """Give an episode up: at the latest at its next tick the policy stops writing."""
        with self._changed:
            self._cancelled.append(episode.index)
            self._changed.notify_all()

    def finish(self) -> None:
        """No more questions will come: the policy ends when those that are there are over."""
        with self._changed:
            self._may_come = False
            self._changed.notify_all()

    def abandon(self, error: CalibAdvError) -> None:
        """Give up all episodes that are not over, because of ``error``."""
        with self._changed:
            self._may_come = False
            for episode in list(self._episodes.values()):
                self._withdraw(episode)
                episode.listener.given_up(episode, error)
            self._changed.notify_all()

    def close(self) -> None:
        """End searches under way; the scheduler cannot be used afterwards."""
        self.searches.close()

    @property
    def num_alive(self) -> int:
        """Episodes that are not over."""
        return len(self._episodes)

    def check_all_done(self) -> None:
        """The policy may only stop when every episode has ended."""
        if self._episodes:
            first = next(iter(self._episodes))
            raise PolicyError(
                f"the policy stopped with {len(self._episodes)} episodes unfinished, episode {first} first"
            )

    def accept(self, completion: Completion) -> None:
        """Record a turn that the policy has finished."""
        with self._changed:
            index = completion.episode
            if index in self._interrupted:
                self._interrupted.discard(index)
                return
            episode = self._episodes.get(index)
            if episode is None or episode.phase is not Phase.GENERATING:
                problem = "which it was not asked for" if 0 <= index < self._added else "which does not exist"
                raise PolicyError(f"the policy completed episode {index}, {problem}")
            query = episode.complete(completion)
            episode.listener.turn_written(episode)
            if query is not None:
                self.searches.add(index, query, top_k=episode.config.top_k, tick=self.tick)
            self._settle(episode)

    # The policy's side (`calibadv.rollout.policy.RequestQueue`).

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        """At most ``room`` turns to generate: those that continue an episode before those that begin one."""
        start = time.perf_counter()
        with self._changed:
            self.tick += 1
            self.searches.submit(tick=self.tick)
            self._take_results(idle=False)
            self._end_early()
            while idle and not self._ready and not self._can_begin() and self._wait_for_work():
                pass
            requests: list[GenerationRequest] = []
            while len(requests) < room and (self._ready or self._can_begin()):
                episode = self._ready.popleft() if self._ready else self._begin()
                requests.append(episode.request())
        self.take_s += time.perf_counter() - start
        return requests

    def ended(self) -> list[int]:
        """Episodes that ended since the last call, those that were interrupted in the middle of a turn among them."""
        with self._changed:
            self._end_early()
            ended, self._ended = self._ended, []
            return ended

    # Inside, with the lock held.

    def _can_begin(self) -> bool:
        limit = self.config.concurrency
        return bool(self._new) and (limit is None or len(self._begun) < limit)

    def _begin(self) -> Episode:
        episode = self._new.popleft()
        self._begun.add(episode.index)
        if episode.started_s is None:
            self._start_clock(episode)
        return episode

    def _start_clock(self, episode: Episode) -> None:
        episode.started_s = self._clock.now()
        if episode.config.deadline_s is not None:
            self._timed[episode.index] = episode

    def _wait_for_work(self) -> bool:
        """Stand still until a search is back or a question comes; False when neither will happen."""
        self.searches.submit(tick=self.tick, now=True)
        if self._in_order:
            return self._take_results(idle=True)
        for batch in [batch for batch in self.searches.in_flight if not self._is_wanted(batch)]:
            self.searches.drop(batch)
        if not self.searches.in_flight and not self._may_come:
            return False
        start = time.perf_counter()
        if not any(batch.is_done for batch in self.searches.in_flight):
            self._changed.wait(POLL_S if self._episodes else None)
        if self.searches.in_flight:
            self.wait_s += time.perf_counter() - start
        self._take_results(idle=False)
        self._end_early()
        return True

    def _take_results(self, *, idle: bool) -> bool:
        """Take the searches that are due (idle: the oldest one, waiting for it). False when there was none."""
        took = False
        while (batch := self._next_due(idle=idle and not took)) is not None:
            if self._in_order:
                self._wait_for(batch)
            if batch.is_done:
                self._deliver(batch)
            else:
                self.searches.drop(batch)
            took = True
        return took

    def _next_due(self, *, idle: bool) -> SearchBatch | None:
        in_flight = self.searches.in_flight
        if not self._in_order:
            return next((batch for batch in in_flight if batch.is_done), None)
        return in_flight[0] if in_flight and (idle or in_flight[0].due <= self.tick) else None

    def _wait_for(self, batch: SearchBatch) -> None:
        """Wait until the batch is done, or all its episodes have run out of time."""
        start = time.perf_counter()
        while not batch.is_done and self._is_wanted(batch):
            self._changed.wait(POLL_S if self._timed else None)
            self._end_early()
        self.wait_s += time.perf_counter() - start

    def _is_wanted(self, batch: SearchBatch) -> bool:
        return any(index in self._episodes for index, _ in batch.queries)

    def _deliver(self, batch: SearchBatch) -> None:
        outcomes: dict[str, Outcome]
        try:
            outcomes = self.searches.take(batch)
        except Exception as error:  # the retriever is gone or has a bug: a batch ends, the questions of others continue
            if not self._live:
                raise
            outcomes = dict.fromkeys((query for _, query in batch.queries), error)
        read: dict[tuple[str, int], Observation | Exception] = {}
        for index, query in batch.queries:
            episode = self._episodes.get(index)
            if episode is None:
                continue
            key = (query, id(episode.config))
            if key not in read:
                read[key] = self._observation(outcomes[query], config=episode.config)
            observation = read[key]
            if isinstance(observation, Exception):
                kind = "" if isinstance(observation, RetrieverError) else f"{type(observation).__name__}: "
                error_text = f"search for {query!r} failed: {kind}{observation}"
                episode.stop(StopReason.SEARCH_FAILED, error=error_text)
            else:
                episode.observe(observation)
                episode.listener.documents_found(episode)
            self._settle(episode)

    def _observation(self, outcome: Outcome, *, config: RolloutConfig) -> Observation | Exception:
        if isinstance(outcome, Exception):
            return outcome
        try:
            documents = [hit.document for hit in outcome[: config.top_k]]
            return search_observation(documents, tokenizer=self._tokenizer, config=config)
        except Exception as error:  # text that a foreign tokenizer does not take
            if not self._live:
                raise
            return error

    def _settle(self, episode: Episode) -> None:
        """Queue the episode's next turn or note its end."""
        if episode.phase is Phase.READY:
            self._ready.append(episode)
        elif episode.phase is Phase.DONE:
            self._forget(episode)
            assert episode.started_s is not None
            episode.listener.finished(episode, seconds=self._clock.now() - episode.started_s)

    def _end_early(self) -> None:
        """End what was cancelled or took too long."""
        while self._cancelled:
            episode = self._episodes.get(self._cancelled.popleft())
            if episode is not None:
                self._withdraw(episode)
                error = PolicyError("the question was given up before its answer was ready")
                episode.listener.given_up(episode, error)
        for episode in list(self._timed.values()) if self._timed else ():
            limit_s = episode.config.deadline_s
            assert limit_s is not None
            assert episode.started_s is not None
            if self._clock.now() - episode.started_s >= limit_s:
                phase = episode.phase
                self._interrupt(episode)
                reason = f"ran longer than rollout.deadline_s = {limit_s} s while {phase}"
                episode.stop(StopReason.DEADLINE, error=reason)
                self._settle(episode)

    def _withdraw(self, episode: Episode) -> None:
        self._interrupt(episode)
        self._forget(episode)

    def _interrupt(self, episode: Episode) -> None:
        """Take an episode out of the queues."""
        if episode.phase is Phase.GENERATING:
            self._interrupted.add(episode.index)
        for waiting in (self._new, self._ready):
            with suppress(ValueError):
                waiting.remove(episode)

    def _forget(self, episode: Episode) -> None:
        del self._episodes[episode.index]
        self._begun.discard(episode.index)
        self._timed.pop(episode.index, None)
        self._ended.append(episode.index)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
