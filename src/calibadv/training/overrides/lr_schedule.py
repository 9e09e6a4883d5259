"""A learning rate that decays over more steps than the run has, and once a batch (one override of the Trainer).

The published runs lower the rate once a batch, along a cosine that is twice as long as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from trl import GRPOTrainer

from calibadv.training.grpo_config import CalibAdvConfig


def held_within_batches(
    factor: Callable[[int], float], *, updates_per_batch: int, warmup_steps: int = 0
) -> Callable[[int], float]:
    """A schedule that changes only between batches, once the warm-up is over.

    Args:
        factor: What the peak rate is multiplied with, by optimizer step.
        updates_per_batch: Optimizer steps of a batch.
        warmup_steps: Steps at the start that keep their own factor.

    >>> falling = held_within_batches(lambda step: 1 - step / 10, updates_per_batch=2)
    >>> [falling(step) for step in range(5)]
    [1.0, 1.0, 0.8, 0.8, 0.6]
    """

    def held(step: int) -> float:
        if step < warmup_steps:
            return factor(step)
        return factor(max(warmup_steps, step - step % updates_per_batch))

    return held


class HeldLearningRate(GRPOTrainer):
    """Override: ``create_scheduler`` decays over ``lr_decay_steps``, once a batch with ``lr_decay_per = "batch"``."""

    args: CalibAdvConfig

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's own schedule, over another number of steps and held within batches where that is asked for."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        num_steps = self.args.lr_decay_steps or num_training_steps
        scheduler = super().create_scheduler(num_steps, optimizer)
        if self.args.lr_decay_per == "batch":
            assert isinstance(scheduler, LambdaLR)  # the others are refused by CalibAdvConfig
            scheduler.lr_lambdas = [
                held_within_batches(
                    factor,
                    updates_per_batch=self.args.updates_per_batch,
                    warmup_steps=self.args.get_warmup_steps(num_steps),
                )
                for factor in scheduler.lr_lambdas
            ]
        return scheduler
