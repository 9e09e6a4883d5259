"""The vocabulary of the package: questions, documents, turns, trajectories, groups.

Everything here is a frozen record of what happened; nothing computes. METHOD names: a *turn* is one model generation plus
the observation it earned; a *trajectory* is the record of one rollout; a *group* holds the trajectories of one question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One data set row."""

    id: str
    """Unique in its data set."""
    text: str
    golden_answers: tuple[str, ...]
    """Every answer that counts as right; at least one for training and scoring."""
    dataset: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One retrieved passage. Documents are the same when their ids are."""

    id: str
    title: str = field(compare=False)
    text: str = field(compare=False)


class ActionKind(StrEnum):
    """What a turn asks for."""

    SEARCH = "search"
    ANSWER = "answer"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Action:
    """What a turn asks for, with the query or the answer (stripped) as its content."""

    kind: ActionKind
    content: str = ""


class StopReason(StrEnum):
    """Why an episode ended. The ones in ``FAILED`` are not the policy's doing: such a trajectory is never trained on."""

    ANSWER = "answer"
    INVALID_ACTION = "invalid_action"
    SEARCH_LIMIT = "search_limit"
    """The last turn asked for one more search, which is no longer carried out."""
    CONTEXT_LENGTH = "context_length"
    """No room for another turn in the policy's context."""
    SEARCH_FAILED = "search_failed"
    """The retriever answers other queries but not this one."""
    DEADLINE = "deadline"
    """The episode took longer than its time limit."""


FAILED = frozenset({StopReason.SEARCH_FAILED, StopReason.DEADLINE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One generation and the observation it earned."""

    text: str
    """What the model wrote, closing tag included. The think prefill is not part of it."""
    thinking: str = ""
    """Inside of the turn's think tags (the opening one may be the prefill)."""
    action: Action
    documents: tuple[Document, ...] = ()
    """Retrieved by this turn, in rank order, as shown in the observation; () unless a search was carried out."""
    observation: str = ""
    """Text appended after the turn, with its tags and the think prefill for the next turn; "" if there was none."""
    token_ids: tuple[int, ...] = ()
    """As sampled; never decoded and encoded again."""
    logprobs: tuple[float, ...] = ()  # [num_tokens], natural log, of the sampling distribution at temperature 1
    observation_token_ids: tuple[int, ...] = ()
    truncated: bool = False
    """The turn ran into its token limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The record of one rollout."""

    question: Question
    rollout_index: int = 0
    """Which of the group's rollouts this is, from 0."""
    prompt: str
    """Everything before the first turn as text, chat template and think prefill included."""
    prompt_token_ids: tuple[int, ...] = ()
    turns: tuple[Turn, ...]  # [num_turns]
    stop_reason: StopReason
    error: str | None = None
    """What went wrong when ``stop_reason`` is in ``FAILED``."""
    think_prefill: bool = True
    """The prompt and every observation end with the opening think tag."""

    @property
    def answer(self) -> str | None:
        """The answer that the model itself wrote in its last turn, or None."""
        if not self.turns or self.turns[-1].action.kind is not ActionKind.ANSWER:
            return None
        return self.turns[-1].action.content

    @property
    def queries(self) -> tuple[str, ...]:
        """Queries of the searches that were carried out."""
        return tuple(t.action.content for t in self.search_turns)

    @property
    def search_turns(self) -> tuple[Turn, ...]:
        """Turns whose search was carried out."""
        return tuple(t for t in self.turns if t.action.kind is ActionKind.SEARCH and t.observation)

    @property
    def failed(self) -> bool:
        """The rollout failed for a reason outside the policy; it is data, but never trained on."""
        return self.stop_reason in FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All trajectories of one question in one batch."""

    question: Question
    trajectories: tuple[Trajectory, ...]  # [num_rollouts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What a trajectory earned: its reward and the advantage of each turn before and after calibration."""

    group_id: str
    reward: float
    scores: Mapping[str, float]
    """Score name -> value: em, cem, f1 of the answer before the format factor."""
    format_valid: bool
    garbled: bool = False
    correctness: tuple[float, ...] | None = None  # [num_turns] query correctness; None: no silver documents or invalid format
    advantages: tuple[float, ...]  # [num_turns] group-relative, before calibration
    calibrated: tuple[float, ...]  # [num_turns] after soft penalty and rebalance
