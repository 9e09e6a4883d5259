"""What a run is: which algorithm, how much, how fast. Light (no torch); `calibadv.runs.train` maps it to TRL.

Defaults are the paper's where it names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmConfig:
    """What turns rewards into advantages."""

    name: Literal["calibadv", "grpo"] = "calibadv"
    """"calibadv" applies the soft penalty and the rebalance of [calibration]; "grpo" leaves the advantages alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Batches, optimizer and output of one run.

    A *batch* is ``questions_per_batch`` x ``num_rollouts`` trajectories; it gives ``mini_batches`` x ``epochs``
    optimizer steps.
    """

    steps: int = 410
    """Optimizer steps in all; a multiple of ``mini_batches * epochs``."""
    questions_per_batch: int = 512
    """Questions asked before each round of updates."""
    num_rollouts: int = 5
    """Rollouts per question (the group size G); at least 2."""
    mini_batches: int = 2
    """Optimizer steps per pass over a batch; divides ``questions_per_batch``."""
    epochs: int = 1
    """Passes over each batch."""
    micro_batch: int = 16
    """Most rollouts in one forward and backward pass. More takes more memory and is faster on a GPU; on a CPU few are
    faster, because rows of one length need no padding."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: far less memory, a third more time."""
    shard_optimizer: bool = False
    """With several processes: each keeps AdamW's moments of its share of the parameters (ZeRO stage 1) and sends the
    others what it updated. The weights are those of an unsharded run."""
    max_batches_without_signal: int = 10
    """Stop after this many batches in a row in which no group holds two different rewards."""
    learning_rate: float = 5e-7
    """AdamW's peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip: float = 0.2
    """PPO clip range on both sides."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "cispo", "gspo"] = "dapo"
    """How token losses are put together, in TRL's names: "dapo" is the paper's mean over all tokens of a batch, "grpo"
    the mean of trajectory means, "dr_grpo" divides by a constant, "cispo" clips weights at
    1 + ``clip``, "gspo" has one ratio a trajectory."""
    save_every: int = 50
    """Optimizer steps between checkpoints; 0 keeps only the last. A multiple of ``mini_batches * epochs``."""
    keep_checkpoints: int | None = None
    """Keep this many of the newest complete checkpoints and delete older ones; not set: all stay."""
    eval_every: int = 0
    """Optimizer steps between evaluations on data.test; 0 never evaluates during training."""
    best_metric: Literal["f1", "em", "cem", "reward", "none"] = "f1"
    """The evaluation with the best value of this metric leaves its weights in ``best/``, if it beats the base model;
    "none" keeps none."""
    seed: int = 0
    """Seeds the order of the questions and every draw."""
    threads: int | None = None
    """CPU threads of torch; not set: torch decides."""
    report_to: tuple[str, ...] = ()
    """The Hugging Face Trainer's trackers, such as "tensorboard" or "wandb"; metrics.jsonl is always written."""
    output: Path = Path("runs/run")
    """The run's folder: config, metrics, trajectories, checkpoints. New, or this run's own with --resume."""

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps that one batch gives."""
        return self.mini_batches * self.epochs

    def __post_init__(self) -> None:
        at_least_one = (
            "steps",
            "questions_per_batch",
            "mini_batches",
            "epochs",
            "micro_batch",
            "max_batches_without_signal",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "save_every", "eval_every", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"training.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("learning_rate", "clip", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"training.{name} must be > 0, got {getattr(self, name)}")
        if self.num_rollouts < 2:
            raise ConfigError(
                f"training.num_rollouts must be >= 2, got {self.num_rollouts}: advantages compare the rollouts of one "
                "question, and a group of one has nothing to compare; the paper uses 5"
            )
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise ConfigError(
                f"training.keep_checkpoints must be >= 1, got {self.keep_checkpoints}; leave it out to keep all"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"training.threads must be >= 1, got {self.threads}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas must be in [0, 1), got {list(self.betas)}")
        self._check_multiples()

    def _check_multiples(self) -> None:
        if self.questions_per_batch % self.mini_batches:
            raise ConfigError(
                f"training.questions_per_batch ({self.questions_per_batch}) must be a multiple of "
                f"training.mini_batches ({self.mini_batches})"
            )
        updates = self.updates_per_batch
        for name in ("steps", "save_every", "eval_every"):
            if getattr(self, name) % updates:
                raise ConfigError(
                    f"training.{name} must be a multiple of mini_batches * epochs ({updates} optimizer steps a batch), "
                    f"got {getattr(self, name)}"
                )
        if self.warmup_steps > self.steps:
            raise ConfigError(
                f"training.warmup_steps ({self.warmup_steps}) must be <= training.steps ({self.steps}); lower it"
            )
