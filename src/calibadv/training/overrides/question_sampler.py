"""Questions in an order that is made as it is needed (one override of TRL's trainer).

TRL's sampler lists the index of every prompt of the run before the first batch; with a billion steps that fills the
memory. The indices are the same here, but for the order within a batch over several processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import Sampler
from trl import GRPOTrainer

from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.packing import dealt


class QuestionSampler(Sampler[int]):
    """The questions of each batch, each ``num_rollouts`` times, and all of that ``repeats`` times.

    Consecutive shares of a batch go to the processes, which therefore get its questions dealt out one by one.
    """

    def __init__(
        self, order: Collection[int], *, questions_per_batch: int, num_rollouts: int, repeats: int, processes: int = 1
    ) -> None:
        self.order = order
        self.questions_per_batch = questions_per_batch
        self.num_rollouts = num_rollouts
        self.repeats = repeats
        self.processes = processes

    def __iter__(self) -> Iterator[int]:
        order = iter(self.order)
        while batch := dealt(list(islice(order, self.questions_per_batch)), processes=self.processes):
            for _ in range(self.repeats):
                for index in batch:
                    for _ in range(self.num_rollouts):
                        yield index

    def __len__(self) -> int:
        return len(self.order) * self.num_rollouts * self.repeats


class LazyQuestions(GRPOTrainer):
    """Override: ``_get_train_sampler`` follows ``question_order``; the data set holds every question once."""

    args: CalibAdvConfig
    question_order: Collection[int]

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        steps_per_generation, num_rollouts = self.args.steps_per_generation, self.args.num_generations
        assert steps_per_generation is not None  # TRL's __post_init__ fills both in
        assert num_rollouts is not None
        return QuestionSampler(
            self.question_order,
            questions_per_batch=self.args.questions_per_batch,
            num_rollouts=num_rollouts,
            repeats=self.num_iterations * steps_per_generation,
            processes=self.accelerator.num_processes,
        )
