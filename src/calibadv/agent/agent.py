"""Answers questions as they come: the rollout's episodes, played for people instead of for a batch.

`calibadv.rollout.rollout` plays a fixed set of questions reproducibly. Here questions arrive at any time and each one
is followed while it is played. The policy runs in one background thread and serves all conversations in one batch;
searches run in a few others. `LiveAgent` is the policy's `RequestQueue`.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calibadv.agent.events import DocumentsFound, Event, Finished, TurnWritten
from calibadv.errors import CalibAdvError, ConfigError, PolicyError, RetrieverError
from calibadv.retrieval.base import Retriever
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Episode, Observation, Phase, search_observation
from calibadv.rollout.policy import Completion, GenerationRequest, Policy
from calibadv.rollout.scheduler import check_observations, check_prompts, make_prompts
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.trajectory import Question, StopReason

logger = logging.getLogger(__name__)

POLL_S = 0.2
LAST_TICK_S = 5.0
"""How long a closing agent waits for its policy to notice."""
MAX_CONVERSATIONS = 256


Listener = Callable[[Event | CalibAdvError], None]


class AgentBusy(CalibAdvError):
    """More questions are being answered than the agent was told to take at once; ask again later."""


class Conversation:
    """One question being answered. Iterating gives its events as they happen; the last one is `Finished`."""

    def __init__(self, episode: Episode, *, listener: Listener | None = None) -> None:
        self.episode = episode
        self.cancelled = threading.Event()
        self._events: queue.SimpleQueue[Event | CalibAdvError] = queue.SimpleQueue()
        self._listener = listener

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events.get()
            if isinstance(event, CalibAdvError):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    def put(self, event: Event | CalibAdvError) -> None:
        """Hand the next event to the listener or to whoever iterates; an error ends the conversation."""
        if self._listener is None:
            self._events.put(event)
            return
        try:
            self._listener(event)
        except Exception:  # a fault of theirs; the other conversations go on
            if not self.cancelled.is_set():
                logger.exception("the listener of a question failed; the question is given up")
            self.cancel()

    def cancel(self) -> None:
        """Give the question up: the policy stops writing at its next tick, and whoever still follows gets an error."""
        self.cancelled.set()


class LiveAgent:
    """A policy with a retriever that answers whoever asks. Safe to use from several threads; close it when done."""

    def __init__(
        self,
        *,
        policy: Policy,
        retriever: Retriever,
        tokenizer: Any,
        config: RolloutConfig,
        seed: int = 0,
        max_conversations: int = MAX_CONVERSATIONS,
    ) -> None:
        self.config = config
        self.max_conversations = max_conversations
        self.retriever = retriever
        self.tokenizer = as_tokenizer(tokenizer)
        check_observations(self.tokenizer, config=config)
        limits = [n for n in (config.max_context_tokens, getattr(policy, "max_context", None)) if n is not None]
        self._max_context = min(limits) if limits else None
        self._policy = policy
        self._seed = seed
        self._numbers = itertools.count()
        self._condition = threading.Condition()
        self._ready: deque[int] = deque()
        self._alive: dict[int, Conversation] = {}
        self._ended: list[int] = []
        self._closing = False
        self._failure: CalibAdvError | None = None
        self._searches = ThreadPoolExecutor(
            max_workers=max(4, config.search_threads), thread_name_prefix="agent-search"
        )
        self._thread = threading.Thread(target=self._run, name="agent-policy", daemon=True)
        self._thread.start()

    # For those who ask.

    def ask(
        self,
        text: str,
        *,
        config: RolloutConfig | None = None,
        seed: int | None = None,
        listener: Listener | None = None,
    ) -> Conversation:
        """Begin to answer a question, with the agent's settings or others.

        A ``listener`` gets the events, in a thread of the agent's, instead of whoever iterates; it must return at once.
        The same ``seed`` gives the same draws.

        Raises `AgentBusy` when too many are being answered, `ConfigError` when the question leaves no room in the
        context or cannot be encoded, `PolicyError` when the agent has failed or was closed.
        """
        check_characters(text)
        config = self.config if config is None else config
        number = next(self._numbers)
        question = Question(id=str(number) if seed is None else "question", text=text, golden_answers=(), dataset="ask")
        prompts = make_prompts([question], num_rollouts=1, tokenizer=self.tokenizer, config=config)
        check_prompts([question], prompts, max_context=self._max_context)
        episode = Episode(
            question, index=number, rollout_index=0, prompt=prompts[0], config=config, tokenizer=self.tokenizer,
            max_context=self._max_context, seed=self._seed if seed is None else seed,
        )  # fmt: skip
        conversation = Conversation(episode, listener=listener)
        with self._condition:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise PolicyError("the agent is shutting down and takes no more questions")
            if len(self._alive) >= self.max_conversations:
                raise AgentBusy(f"{len(self._alive)} questions are being answered, which is the limit; ask again later")
            episode.started_s = time.monotonic()
            self._alive[number] = conversation
            self._ready.append(number)
            self._condition.notify_all()
        return conversation

    @property
    def num_alive(self) -> int:
        """Questions being answered."""
        return len(self._alive)

    @property
    def failure(self) -> CalibAdvError | None:
        """Why the agent no longer answers, if it does not."""
        return self._failure

    def close(self, *, timeout_s: float | None = None) -> None:
        """Take no more questions, finish those that are there, stop. After ``timeout_s`` the rest is given up."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(timeout_s)
        with self._condition:
            for number, conversation in list(self._alive.items()):
                conversation.cancel()
                self._forget(number)
                conversation.put(PolicyError("the agent was shut down before the answer was ready"))
            self._condition.notify_all()
        self._searches.shutdown(wait=False, cancel_futures=True)
        self._thread.join(LAST_TICK_S)

    def __enter__(self) -> LiveAgent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(timeout_s=None if kind is None else 0)  # after Ctrl-C nobody waits for answers

    # The policy's side (`calibadv.rollout.policy.RequestQueue`).

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        """At most ``room`` turns to generate; waits while there is nothing at all to do."""
        with self._condition:
            self._expire()
            while idle and not self._ready and (self._alive or not self._closing):
                self._condition.wait(timeout=POLL_S if self._alive else None)
                self._expire()
            requests: list[GenerationRequest] = []
            while self._ready and len(requests) < room:
                requests.append(self._alive[self._ready.popleft()].episode.request())
            return requests

    def ended(self) -> list[int]:
        """Episodes that are over, those that were cancelled or ran out of time among them."""
        with self._condition:
            self._expire()
            ended, self._ended = self._ended, []
            return ended

    # Inside.

    def _run(self) -> None:
        try:
            for completion in self._policy.generate(self):
                self._accept(completion)
        except Exception as error:  # whatever it is, everybody who waits must hear of it
            known = isinstance(error, CalibAdvError)
            failure = error if known else PolicyError(f"the agent has failed ({type(error).__name__}: {error})")
            assert isinstance(failure, CalibAdvError)
            with self._condition:
                self._failure = failure
                for conversation in self._alive.values():
                    conversation.put(failure)
                self._alive.clear()
            if not known:
                raise

    def _accept(self, completion: Completion) -> None:
        with self._condition:
            conversation = self._alive.get(completion.episode)
            if conversation is None:  # cancelled or expired in the middle of its turn
                return
            episode = conversation.episode
            query = episode.complete(completion)
            turn = episode.turns[-1]
            number = len(episode.turns) - 1
            conversation.put(TurnWritten(turn=number, thinking=turn.thinking, action=turn.action, text=turn.text))
            if query is not None:
                self._searches.submit(self._search, conversation, query)
            else:
                self._settle(conversation)

    def _search(self, conversation: Conversation, query: str) -> None:
        episode = conversation.episode
        outcome: Observation | Exception
        try:
            (hits,) = self.retriever.search([query], episode.config.top_k)
            documents = [hit.document for hit in hits]
            outcome = search_observation(documents, tokenizer=self.tokenizer, config=episode.config)
        except Exception as error:  # also of foreign retrievers and tokenizers: the conversation must end, not hang
            outcome = error
        with self._condition:
            if self._alive.get(episode.index) is not conversation:
                return
            if isinstance(outcome, Exception):
                kind = "" if isinstance(outcome, RetrieverError) else f"{type(outcome).__name__}: "
                episode.stop(StopReason.SEARCH_FAILED, error=f"search for {query!r} failed: {kind}{outcome}")
            else:
                episode.observe(outcome)
                conversation.put(
                    DocumentsFound(turn=len(episode.turns) - 1, query=query, documents=episode.turns[-1].documents)
                )
            self._settle(conversation)

    def _settle(self, conversation: Conversation) -> None:
        """Queue the next turn or announce the end. The lock is held."""
        episode = conversation.episode
        if episode.phase is Phase.READY:
            self._ready.append(episode.index)
        elif episode.phase is Phase.DONE:
            self._forget(episode.index)
            assert episode.started_s is not None
            seconds = time.monotonic() - episode.started_s
            conversation.put(Finished(trajectory=episode.trajectory(), seconds=seconds))
        self._condition.notify_all()

    def _forget(self, number: int) -> None:
        del self._alive[number]
        self._ended.append(number)
        if number in self._ready:
            self._ready.remove(number)

    def _expire(self) -> None:
        """End what was cancelled or took too long. The lock is held."""
        for number, conversation in list(self._alive.items()):
            episode, limit = conversation.episode, conversation.episode.config.deadline_s
            assert episode.started_s is not None
            if conversation.cancelled.is_set():
                self._forget(number)
                conversation.put(PolicyError("the question was given up before its answer was ready"))
            elif limit is not None and time.monotonic() - episode.started_s > limit:
                episode.stop(StopReason.DEADLINE, error=f"longer than {limit} s")
                self._settle(conversation)


def check_characters(text: str) -> None:
    """Refuse half a surrogate pair, which a shell makes of bytes that are no UTF-8 and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("the question holds half of a surrogate pair, which is no character; is it UTF-8?") from error
