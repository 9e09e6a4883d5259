"""The [sft] section of a run: which demonstrations, and how they are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTSettings:
    """Supervised fine-tuning on demonstrations. [model], [lora], [retrieval] and [rollout] are those of the run."""

    questions: tuple[Path, ...] = ()
    """Question files that demonstrations are made for and traces are matched with; not set: data.train. Questions of
    data.test are left out whatever is named here."""
    programmatic: int | None = None
    """At most this many demonstrations by script, drawn with ``seed``; 0 makes none, not set: one for every question
    that has a plan."""
    traces: tuple[Path, ...] = ()
    """Recorded rollouts in the form of Search-R1's evaluation: JSONL with dataset, id, prompt, response."""
    traces_per_question: int = 2
    """At most this many different traces of one question."""
    trajectories: tuple[Path, ...] = ()
    """Stored trajectories (`calibadv.data.trajectory_files`) to train on besides."""
    limit: int | None = None
    """At most this many demonstrations in all, drawn with ``seed``; not set: all."""
    epochs: int = 2
    """Passes over the demonstrations."""
    batch: int = 32
    """Demonstrations per optimizer step, over all processes."""
    micro_batch: int = 4
    """Most demonstrations in one forward and backward pass."""
    max_tokens: int = 4096
    """Longer demonstrations are left out."""
    learning_rate: float = 1e-5
    """AdamW's peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    warmup_steps: int = 10
    """Optimizer steps of linear warm-up."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    save_every: int = 100
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int | None = 2
    """Newest complete checkpoints that stay; "none": all."""
    format_check: int = 20
    """Questions that the trained model plays greedily at the end (of data.test, else of ``questions``); 0: none."""
    seed: int = 0
    """Seeds wording, order and draws."""
    output: Path | None = None
    """The folder: config, demonstrations, checkpoints, model. Not set: that of training.output with "-sft" added."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "micro_batch", "traces_per_question", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"sft.{name} must be >= 1, got {getattr(self, name)}")
        if self.max_tokens < 64:
            raise ConfigError(f"sft.max_tokens must be >= 64, got {self.max_tokens}: no demonstration is that short")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"sft.limit must be >= 1, got {self.limit}; leave it out for all demonstrations")
        for name in ("warmup_steps", "weight_decay", "format_check"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"sft.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"sft.{name} must be > 0, got {getattr(self, name)}")
        if self.programmatic is not None and self.programmatic < 0:
            raise ConfigError(f"sft.programmatic must be >= 0, got {self.programmatic}; leave it out for all")
        if self.keep_checkpoints is not None and self.keep_checkpoints < 1:
            raise ConfigError(f'sft.keep_checkpoints must be >= 1 or "none", got {self.keep_checkpoints}')
