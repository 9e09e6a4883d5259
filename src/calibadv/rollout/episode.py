"""One episode as a state machine: prompt, then turns until something ends it.

The episode owns the context: prompt ids, then per turn the sampled ids and the observation's ids, each encoded once and
alone. `Episode.request` asserts that the record and the context sent to the policy are the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from calibadv.dialogue.observation import render_invalid, render_observation
from calibadv.dialogue.parse import read_turn
from calibadv.errors import CalibAdvError, TokenMismatchError
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.policy import Completion, GenerationRequest, SamplingParams
from calibadv.rollout.tokenizer import Tokenizer
from calibadv.trajectory import ActionKind, Document, Question, StopReason, Trajectory, Turn


class Phase(StrEnum):
    """What an episode is waiting for."""

    READY = "ready"
    """To be handed to the policy."""
    GENERATING = "generating"
    SEARCHING = "searching"
    DONE = "done"


class Observation(NamedTuple):
    """What a search or an invalid action earned, as text and as token ids."""

    text: str
    token_ids: tuple[int, ...]
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question's prompt, encoded once for all its rollouts."""

    text: str
    token_ids: tuple[int, ...]


def turn_seed(seed: int, *, question: Question, rollout_index: int, turn: int) -> int:
    """Seed of one turn's draws, from names alone: 64 bits, the same in every process.

    >>> q = Question(id="q1", text="?", golden_answers=("a",))
    >>> turn_seed(0, question=q, rollout_index=0, turn=0) == turn_seed(0, question=q, rollout_index=0, turn=0)
    True
    """
    name = "\x1f".join((str(seed), question.dataset, question.id, str(rollout_index), str(turn)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def search_observation(documents: Sequence[Document], *, tokenizer: Tokenizer, config: RolloutConfig) -> Observation:
    """Render documents within ``max_observation_tokens`` and encode the text once."""
    encoded: dict[str, list[int]] = {}

    def fits(text: str) -> bool:
        encoded.clear()
        encoded[text] = tokenizer.encode(text)
        return len(encoded[text]) <= config.max_observation_tokens

    text, shown = render_observation(documents, think_prefill=config.think_prefill, fits=fits)
    ids = encoded.get(text)
    return Observation(text, tuple(tokenizer.encode(text) if ids is None else ids), tuple(shown))


class Listener:
    """What becomes of an episode, for a follower; here nothing is done about it.

    The methods are called under the scheduler's lock: they must return at once.
    """

    def turn_written(self, episode: Episode) -> None:
        """The policy has finished a turn, the last of ``episode.turns``."""

    def documents_found(self, episode: Episode) -> None:
        """The search of the last turn is back."""

    def finished(self, episode: Episode, *, seconds: float) -> None:
        """The episode is over, ``seconds`` after it began."""

    def given_up(self, episode: Episode, error: CalibAdvError) -> None:
        """The episode was withdrawn before it was over."""


class Episode:
    """The state of one rollout while it is being played."""

    __slots__ = (
        "config", "context", "error", "index", "listener", "max_context", "phase", "prompt", "question",
        "rollout_index", "seed", "started_s", "stop_reason", "tokenizer", "turns",
    )  # fmt: skip

    def __init__(
        self,
        question: Question,
        *,
        index: int,
        rollout_index: int,
        prompt: Prompt,
        config: RolloutConfig,
        tokenizer: Tokenizer,
        max_context: int | None,
        seed: int,
        listener: Listener,
    ) -> None:
        self.listener = listener
        self.question = question
        self.index = index
        self.rollout_index = rollout_index
        self.prompt = prompt
        self.config = config
        self.tokenizer = tokenizer
        self.max_context = max_context
        self.seed = seed
        self.phase = Phase.READY
        self.context: list[int] = list(prompt.token_ids)
        self.turns: list[Turn] = []
        self.started_s: float | None = None
        self.stop_reason: StopReason | None = None
        self.error: str | None = None

    def request(self) -> GenerationRequest:
        """The next turn to generate."""
        self._check_tokens()
        self.phase = Phase.GENERATING
        params = SamplingParams(
            temperature=self.config.temperature, top_p=self.config.top_p, max_tokens=self._turn_limit()
        )
        seed = turn_seed(self.seed, question=self.question, rollout_index=self.rollout_index, turn=len(self.turns))
        return GenerationRequest(episode=self.index, token_ids=tuple(self.context), params=params, seed=seed)

    def complete(self, completion: Completion) -> str | None:
        """Record what the policy wrote. Returns the query when a search is to be carried out."""
        cut_by_context = completion.finish == "length" and self._turn_limit() < self.config.max_turn_tokens
        self.context.extend(completion.token_ids)
        thinking, action = read_turn(completion.text, think_open=self.config.think_prefill)
        self.turns.append(
            Turn(
                text=completion.text,
                thinking=thinking,
                action=action,
                token_ids=tuple(completion.token_ids),
                logprobs=tuple(completion.logprobs),
                truncated=completion.finish == "length",
            )
        )
        is_last = len(self.turns) > self.config.max_searches
        if action.kind is ActionKind.ANSWER:
            self.stop(StopReason.ANSWER)
        elif action.kind is ActionKind.SEARCH:
            if not is_last:
                self.phase = Phase.SEARCHING
                return action.content
            self.stop(StopReason.SEARCH_LIMIT)
        elif cut_by_context:
            self.stop(StopReason.CONTEXT_LENGTH)
        elif self.config.on_invalid == "retry" and not is_last:
            text = render_invalid(think_prefill=self.config.think_prefill)
            self.observe(Observation(text, tuple(self.tokenizer.encode(text))))
        else:
            self.stop(StopReason.INVALID_ACTION)
        return None

    def observe(self, observation: Observation) -> None:
        """Append what the last turn earned and get ready for the next, if the context has room for it."""
        if self.max_context is not None and len(self.context) + len(observation.token_ids) >= self.max_context:
            self.stop(StopReason.CONTEXT_LENGTH)
            return
        self.context.extend(observation.token_ids)
        self.turns[-1] = replace(
            self.turns[-1],
            documents=observation.documents,
            observation=observation.text,
            observation_token_ids=observation.token_ids,
        )
        self.phase = Phase.READY

    def stop(self, reason: StopReason, *, error: str | None = None) -> None:
        """End the episode."""
        self._check_tokens()
        self.phase = Phase.DONE
        self.stop_reason = reason
        self.error = error

    def trajectory(self) -> Trajectory:
        """The record; only for an episode that ended."""
        assert self.stop_reason is not None
        return Trajectory(
            question=self.question,
            rollout_index=self.rollout_index,
            prompt=self.prompt.text,
            prompt_token_ids=self.prompt.token_ids,
            turns=tuple(self.turns),
            stop_reason=self.stop_reason,
            error=self.error,
            think_prefill=self.config.think_prefill,
        )

    def _turn_limit(self) -> int:
        if self.max_context is None:
            return self.config.max_turn_tokens
        return min(self.config.max_turn_tokens, self.max_context - len(self.context))

    def _check_tokens(self) -> None:
        recorded = list(self.prompt.token_ids)
        for turn in self.turns:
            recorded += turn.token_ids
            recorded += turn.observation_token_ids
        if recorded != self.context:
            first = next((i for i, (a, b) in enumerate(zip(recorded, self.context, strict=False)) if a != b), -1)
            raise TokenMismatchError(
                f"question {self.question.id!r}, rollout {self.rollout_index}: the recorded token ids "
                f"({len(recorded)}) are not the policy's context ({len(self.context)}); first difference at {first}"
            )
