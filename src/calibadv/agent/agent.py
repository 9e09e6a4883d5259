"""Answers questions as they come: the rollout's scheduler, open to questions at any time and from any thread.

The policy runs in one background thread and serves all conversations in one batch; searches run in others.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from calibadv.agent.events import DocumentsFound, Event, Finished, TurnWritten
from calibadv.errors import CalibAdvError, ConfigError, PolicyError
from calibadv.io.clock import SYSTEM_CLOCK, Clock
from calibadv.retrieval.base import Retriever
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.episode import Episode
from calibadv.rollout.episode import Listener as EpisodeListener
from calibadv.rollout.policy import Policy
from calibadv.rollout.prompts import check_prompts, make_prompts
from calibadv.rollout.scheduler import Scheduler
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.trajectory import Question

logger = logging.getLogger(__name__)

LAST_TICK_S = 5.0
"""How long a closing agent waits for its policy to notice."""
MAX_CONVERSATIONS = 256

Listener = Callable[[Event | CalibAdvError], None]
"""Called with each event, and with the error that ends a conversation early."""


class AgentBusy(CalibAdvError):
    """More questions are being answered than the agent may answer at once; ask again later."""


class Conversation(EpisodeListener):
    """One question being answered. Iterating gives its events as they happen; the last one is `Finished`."""

    def __init__(self, scheduler: Scheduler, *, listener: Listener | None) -> None:
        self._scheduler = scheduler
        self._events: queue.SimpleQueue[Event | CalibAdvError] = queue.SimpleQueue()
        self._listener = listener or self._events.put
        self._episode: Episode | None = None
        self._is_cancelled = False

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events.get()
            if isinstance(event, CalibAdvError):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    def cancel(self) -> None:
        """Cancel the question: the policy stops at its next tick; a caller that still iterates gets an error."""
        self._is_cancelled = True
        if self._episode is not None:
            self._scheduler.cancel(self._episode)

    # What the scheduler reports.

    def follow(self, episode: Episode) -> None:
        """This is the episode that answers the question."""
        self._episode = episode

    def turn_written(self, episode: Episode) -> None:
        turn = episode.turns[-1]
        number = len(episode.turns) - 1
        self._put(episode, TurnWritten(turn=number, thinking=turn.thinking, action=turn.action, text=turn.text))

    def documents_found(self, episode: Episode) -> None:
        turn = episode.turns[-1]
        query = turn.action.content
        self._put(episode, DocumentsFound(turn=len(episode.turns) - 1, query=query, documents=turn.documents))

    def finished(self, episode: Episode, *, seconds: float) -> None:
        self._put(episode, Finished(trajectory=episode.trajectory(), seconds=seconds))

    def given_up(self, episode: Episode, error: CalibAdvError) -> None:
        self._put(episode, error)

    def _put(self, episode: Episode, event: Event | CalibAdvError) -> None:
        """Pass the next event to the listener or to the iterating caller."""
        try:
            self._listener(event)
        except Exception:  # a fault of theirs; the other conversations continue
            if not self._is_cancelled:
                logger.exception("the listener of a question failed; the question is given up")
            self.follow(episode)
            self.cancel()


class Agent:
    """A policy with a retriever that answers questions. Safe to use from several threads; close it when done.

    Args:
        policy: What writes the turns.
        retriever: What is searched; it may be called from ``config.search_threads`` threads at once.
        tokenizer: One of calibadv's (`calibadv.rollout.Tokenizer`) or of transformers.
        config: How questions are answered; the rollout's settings all hold here as well.
        seed: Seeds the draws of questions that come without a seed of their own.
        max_conversations: Questions answered at once; `AgentBusy` for more.
        clock: Times deadlines and the waits between attempts of a search.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        retriever: Retriever,
        tokenizer: Any,
        config: RolloutConfig,
        seed: int = 0,
        max_conversations: int = MAX_CONVERSATIONS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config
        self.max_conversations = max_conversations
        self.tokenizer = as_tokenizer(tokenizer)
        self._policy = policy
        self._seed = seed
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closing = False
        self._failure: CalibAdvError | None = None
        self._scheduler = Scheduler(
            policy=policy, retriever=retriever, tokenizer=self.tokenizer, config=config, live=True, clock=clock
        )
        self._thread = threading.Thread(target=self._run, name="agent-policy", daemon=True)
        self._thread.start()

    def ask(
        self,
        text: str,
        *,
        config: RolloutConfig | None = None,
        seed: int | None = None,
        listener: Listener | None = None,
    ) -> Conversation:
        """Begin to answer a question.

        Args:
            text: The question.
            config: Settings other than the agent's; those of searches and ``concurrency`` stay the agent's.
            seed: The same one gives the same draws.
            listener: Gets the events, in a thread of the agent's, instead of the caller; it must return at once.

        Raises:
            AgentBusy: Too many questions are being answered.
            ConfigError: The question leaves no room in the context or cannot be encoded.
            PolicyError: The agent has failed or was closed.
        """
        check_characters(text)
        config = self.config if config is None else config
        name = str(next(self._numbers)) if seed is None else "question"
        question = Question(id=name, text=text, golden_answers=(), dataset="ask")
        prompts = make_prompts([question], num_rollouts=1, tokenizer=self.tokenizer, config=config)
        check_prompts([question], prompts, max_context=self._scheduler.max_context)
        conversation = Conversation(self._scheduler, listener=listener)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise PolicyError("the agent is shutting down and takes no more questions")
            if self.num_alive >= self.max_conversations:
                raise AgentBusy(f"{self.num_alive} questions are being answered, which is the limit; ask again later")
            conversation.follow(
                self._scheduler.add(
                    question,
                    prompt=prompts[0],
                    seed=self._seed if seed is None else seed,
                    config=config,
                    listener=conversation,
                )
            )
        return conversation

    @property
    def num_alive(self) -> int:
        """Questions being answered."""
        return self._scheduler.num_alive

    @property
    def failure(self) -> CalibAdvError | None:
        """Why the agent no longer answers, if it does not."""
        return self._failure

    def close(self, *, timeout_s: float | None = None) -> None:
        """Take no more questions, finish those that are there, stop. After ``timeout_s`` the rest is given up."""
        with self._lock:
            self._closing = True
        self._scheduler.finish()
        self._thread.join(timeout_s)
        self._scheduler.abandon(PolicyError("the agent was shut down before the answer was ready"))
        self._scheduler.close()
        self._thread.join(LAST_TICK_S)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(timeout_s=None if kind is None else 0)  # after Ctrl-C nobody waits for answers

    def _run(self) -> None:
        try:
            for completion in self._policy.generate(self._scheduler):
                self._scheduler.accept(completion)
        except Exception as error:  # whatever it is, everybody who waits must be told
            known = isinstance(error, CalibAdvError)
            failure = error if known else PolicyError(f"the agent has failed ({type(error).__name__}: {error})")
            assert isinstance(failure, CalibAdvError)
            with self._lock:
                self._failure = failure
            self._scheduler.abandon(failure)
            if not known:
                raise


def check_characters(text: str) -> None:
    """Refuse half a surrogate pair, which a shell makes of bytes that are no UTF-8 and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("the question holds half of a surrogate pair, which is no character; is it UTF-8?") from error
