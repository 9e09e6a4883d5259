"""TRL's ``rollout_func`` on top of `calibadv.rollout`: prompts in, token ids, log-probabilities and trajectories out.

It also works with an unmodified ``trl.GRPOTrainer``, together with `handed_over_reward`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from calibadv.errors import ConfigError
from calibadv.retrieval.base import Retriever
from calibadv.rewards.reward import Reward
from calibadv.rollout import Policy, RolloutConfig, RolloutResult, Tokenizer, rollout
from calibadv.training.credit import Outcome
from calibadv.training.process_group import together
from calibadv.training.trl_batch import QUESTION_KEY, rollout_fields
from calibadv.trajectory import Question

RolloutFunc = Callable[[list[Any], Any], dict[str, Any]]


def make_rollout_func(
    questions: Sequence[Question],
    *,
    policy: Callable[[], Policy],
    retriever: Retriever,
    tokenizer: Tokenizer,
    config: RolloutConfig,
    filler_id: int,
    score: str = "f1",
    reward: Reward | None = None,
    on_result: Callable[[RolloutResult], None] | None = None,
) -> RolloutFunc:
    """A rollout function for TRL's ``GRPOTrainer``.

    Prompts must come from `calibadv.training.question_rows` over the same ``questions``. ``policy`` is called once a
    batch. ``filler_id`` is a token id for trajectories without tokens. Draws are seeded by the trainer's seed and step.
    Every trajectory is graded here, once: by ``reward``, or by the outcome reward with ``score``; what comes of it
    travels with the trajectory as field "outcome".
    """

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows = [question_index(prompt, num_questions=len(questions)) for prompt in prompts]
        asked = whole_groups(rows, num_rollouts=trainer.num_generations)
        result = None
        with together(num_processes=trainer.accelerator.num_processes), trainer.accelerator.autocast():
            result = rollout(
                [questions[index] for index in asked],
                num_rollouts=trainer.num_generations,
                policy=policy(),
                retriever=retriever,
                tokenizer=tokenizer,
                config=config,
                seed=step_seed(trainer.args.seed, trainer.state.global_step),
            )
        assert result is not None
        if on_result is not None:
            on_result(result)
        outcomes = [
            Outcome.of(trajectory, group_id=str(asked[n // trainer.num_generations]), score=score, reward=reward)
            for n, trajectory in enumerate(result.trajectories)
        ]
        return rollout_fields(result.trajectories, filler_id=filler_id) | {"outcome": outcomes}

    return rollout_func


def whole_groups(rows: Sequence[int], *, num_rollouts: int) -> list[int]:
    """The questions of a process's rows, which must be whole groups.

    >>> whole_groups([4, 4, 7, 7], num_rollouts=2)
    [4, 7]
    """
    asked = list(rows[::num_rollouts])
    if [index for index in asked for _ in range(num_rollouts)] != list(rows):
        raise ConfigError(
            f"each process must get whole groups of {num_rollouts} rollouts, but its {len(rows)} rows cut one apart: "
            "choose questions_per_batch as a multiple of the number of processes"
        )
    return asked


def question_index(prompt: Any, *, num_questions: int) -> int:
    """The row number that a prompt carries; raises `ConfigError` for prompts that were not made by `question_rows`."""
    index = prompt[-1].get(QUESTION_KEY) if isinstance(prompt, list) and prompt else None
    if not isinstance(index, int) or not 0 <= index < num_questions:
        raise ConfigError(
            f"the prompt carries no valid {QUESTION_KEY!r} number (got {index!r}, expected 0 to {num_questions - 1}): "
            "make the data set with calibadv.training.question_rows"
        )
    return index


def step_seed(seed: int, step: int) -> int:
    """A 63-bit seed for the rollouts of one batch, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def handed_over_reward(*, completions: list[Any], **fields: Any) -> list[float | None]:
    """A TRL reward function: the rewards of the trajectories that `make_rollout_func` hands over.

    A failed rollout is scored None: TRL leaves it out of its group and gives it advantage 0.
    """
    if "outcome" not in fields:
        raise ConfigError(
            "the reward needs trajectories: use the rollout function of calibadv.training.make_rollout_func"
        )
    return [None if outcome.failed else outcome.reward for outcome in fields["outcome"]]
