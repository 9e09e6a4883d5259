"""Trajectories -> the fields that TRL's ``rollout_func`` returns, and the order in which questions are asked.

Token ids are handed on exactly as sampled; observations carry loss mask 0 (TRL's ``env_mask``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import ConfigError, TokenMismatchError
from calibadv.trajectory import Question, Trajectory

QUESTION_KEY = "question"
"""Key of the user message that carries its question's row number: TRL hands a rollout function prompts, no rows."""


def question_rows(questions: Sequence[Question], *, order: Iterable[int]) -> list[dict[str, Any]]:
    """Data set rows for TRL: one conversational prompt per entry of ``order`` (indices into ``questions``)."""
    return [{"prompt": [{"role": "user", "content": questions[index].text, QUESTION_KEY: index}]} for index in order]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOrder:
    """Indices of the questions of all batches: seeded passes over the questions, none twice in a batch.

    Fixed before the run, so that a resumed run asks what the uninterrupted one would have asked; made pass by pass
    while it is iterated, so that a long run takes no more memory than a short one.

    >>> order = QuestionOrder(num_questions=5, num_batches=3, questions_per_batch=2, seed=0)
    >>> len(order), list(order) == list(order), set(order) <= set(range(5))
    (6, True, True)
    """

    num_questions: int
    num_batches: int
    questions_per_batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_questions < self.questions_per_batch:
            raise ConfigError(
                f"training.questions_per_batch is {self.questions_per_batch}, but there are only {self.num_questions} "
                "training questions: lower it or give more questions"
            )

    def __len__(self) -> int:
        return self.num_batches * self.questions_per_batch

    def __iter__(self) -> Iterator[int]:
        shuffle = Random(self.seed)
        in_a_pass = self.num_questions // self.questions_per_batch * self.questions_per_batch
        for start in range(0, len(self), in_a_pass):
            one_pass = shuffle.sample(range(self.num_questions), self.num_questions)
            yield from one_pass[: min(in_a_pass, len(self) - start)]

    def __contains__(self, index: object) -> bool:
        return any(index == asked for asked in self)


def rollout_fields(trajectories: Sequence[Trajectory], *, filler_id: int) -> dict[str, list[Any]]:
    """What TRL wants back from a rollout function, one entry per trajectory.

    ``filler_id`` (masked) stands in for a trajectory without a single token, which TRL cannot hold.
    """
    fields: dict[str, list[Any]] = {
        "prompt_ids": [],
        "completion_ids": [],
        "logprobs": [],
        "env_mask": [],
        "trajectory": list(trajectories),
    }
    for trajectory in trajectories:
        token_ids: list[int] = []
        logprobs: list[float] = []
        mask: list[int] = []
        trained = 0 if trajectory.failed else 1
        for turn in trajectory.turns:
            token_ids += turn.token_ids + turn.observation_token_ids
            logprobs += turn.logprobs + (0.0,) * len(turn.observation_token_ids)
            mask += [trained] * len(turn.token_ids) + [0] * len(turn.observation_token_ids)
        fields["prompt_ids"].append(list(trajectory.prompt_token_ids))
        fields["completion_ids"].append(token_ids or [filler_id])
        fields["logprobs"].append(logprobs or [0.0])
        fields["env_mask"].append(mask or [0])
    return fields


def turn_starts(trajectories: Sequence[Trajectory], *, num_turns: int) -> NDArray[np.int64]:
    """Column of each turn's first token in the completion, shape [N, ``num_turns``] (0 where there is no turn)."""
    starts = np.zeros((len(trajectories), num_turns), dtype=np.int64)
    for row, trajectory in enumerate(trajectories):
        column = 0
        for k, turn in enumerate(trajectory.turns):
            starts[row, k] = column
            column += len(turn.token_ids) + len(turn.observation_token_ids)
    return starts


def sampled_token_ids(trajectory: Trajectory) -> Iterator[int]:
    """The ids that the policy sampled, turn after turn."""
    for turn in trajectory.turns:
        yield from turn.token_ids


def check_trained_tokens(trajectory: Trajectory, trained_ids: Sequence[int]) -> None:
    """Raise `TokenMismatchError` unless the ids under the loss mask are the sampled ones, one for one."""
    sampled = [] if trajectory.failed else list(sampled_token_ids(trajectory))
    if list(trained_ids) != sampled:
        first = next((i for i, (a, b) in enumerate(zip(trained_ids, sampled, strict=False)) if a != b), -1)
        raise TokenMismatchError(
            f"question {trajectory.question.id}, rollout {trajectory.rollout_index}: {len(trained_ids)} trained and "
            f"{len(sampled)} sampled token ids differ (first difference at {first}); this is a bug, please report it"
        )
