"""The vocabulary of the package: questions, documents, turns, trajectories, groups.

Everything here is a frozen record of what happened. A *turn* is one model generation plus the observation it earned; a
*trajectory* is the record of one rollout; a *group* holds the trajectories of one question.
`Trajectory.from_text` reads such a record out of the plain text of an old run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from calibadv.tags import THINK_OPEN, split_documents, split_response, turn_parts, without_end_markers


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
    """Why an episode ended. Those in ``FAILED`` are not the policy's doing: such a trajectory is never trained on."""

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

    @property
    def response(self) -> str:
        """Everything after the prompt as text: turns and observations."""
        return "".join(turn.text + turn.observation for turn in self.turns)

    def to_text(self) -> str:
        """The whole trajectory as one text: the prompt, then every turn with its observation."""
        return self.prompt + self.response

    @classmethod
    def from_text(
        cls,
        prompt: str,
        response: str,
        question: Question,
        *,
        think_prefill: bool | None = None,
        rollout_index: int = 0,
    ) -> Trajectory:
        """Read a trajectory out of plain text, for instance the export of another system.

        ``think_prefill`` says whether the prompt and the observations end with the opening think tag; None looks at
        the prompt. Documents are read back from the observations; their id is a hash of title and text as written.
        There are no token ids. End-of-sequence markers at the very end are left out; otherwise `response` gives the
        text back. Text does not say who wrote what: `calibadv.tags.split_response` tells how the two are told apart.
        """
        if think_prefill is None:
            think_prefill = prompt.rstrip().endswith(THINK_OPEN)
        turns = _read_turns(without_end_markers(response), think_prefill=think_prefill)
        return cls(
            question=question,
            rollout_index=rollout_index,
            prompt=prompt,
            turns=turns,
            stop_reason=reason_after(turns[-1]),
            think_prefill=think_prefill,
        )


def _read_turns(response: str, *, think_prefill: bool) -> tuple[Turn, ...]:
    """The turns of a plain-text response; always at least one."""
    texts: list[str] = []
    observations: list[str] = []
    for piece in split_response(response):
        text = response[slice(*piece.model)]
        if think_prefill and observations and text.lstrip().startswith(THINK_OPEN):
            end = text.index(THINK_OPEN) + len(THINK_OPEN)
            observations[-1], text = observations[-1] + text[:end], text[end:]
            if not text and not response[slice(*piece.observation)]:
                break  # the text ends with the prefill
        texts.append(text)
        observations.append(response[slice(*piece.observation)])
    turns = []
    for number, (text, observation) in enumerate(zip(texts, observations, strict=True)):
        before = observations[number - 1] if number else THINK_OPEN
        turns.append(_read_turn(text, observation, think_open=think_prefill and before.endswith(THINK_OPEN)))
    return tuple(turns)


def _read_turn(text: str, observation: str, *, think_open: bool) -> Turn:
    thinking, pair = turn_parts(text, think_open=think_open)
    return Turn(
        text=text,
        thinking=thinking,
        action=Action(ActionKind.INVALID) if pair is None else Action(ActionKind(pair.role), pair.content.strip()),
        documents=tuple(
            Document(id=document_hash(d.source), title=d.title, text=d.text) for d in split_documents(observation)
        ),
        observation=observation,
    )


def document_hash(source: str) -> str:
    """The id given to a document that is only known by its text: 16 hexadecimal digits of the SHA-256.

    >>> document_hash('(Title: "Oslo") A city.')
    '138507bbb29c158e'
    """
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def reason_after(last: Turn) -> StopReason:
    """Why an episode that is only known by its text ended with this turn."""
    if last.observation:
        return StopReason.CONTEXT_LENGTH  # cut off before the next turn
    if last.action.kind is ActionKind.ANSWER:
        return StopReason.ANSWER
    return StopReason.SEARCH_LIMIT if last.action.kind is ActionKind.SEARCH else StopReason.INVALID_ACTION


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
    correctness: tuple[float, ...] | None = (
        None  # [num_turns] query correctness; None: no silver documents or invalid format
    )
    advantages: tuple[float, ...]  # [num_turns] group-relative, before calibration
    calibrated: tuple[float, ...]  # [num_turns] after soft penalty and rebalance
