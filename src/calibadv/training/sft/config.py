"""The [sft] section of a run: which demonstrations, and how they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from calibadv.config_class import Count, NonNegativeFloat, PositiveFloat, PositiveInt, Remedy, Seed, config_class


@config_class("sft")
class SFTConfig:
    """Supervised fine-tuning on demonstrations. [model], [lora], [retrieval] and [rollout] are those of the run."""

    questions: tuple[Path, ...] = ()
    """Question files that demonstrations are made for and traces are matched with; not set: data.train. Questions of
    data.test are left out whatever is named here."""
    programmatic: Annotated[Count | None, Remedy("leave it out for all")] = None
    """At most this many demonstrations by script, drawn with ``seed``; 0 makes none, not set: one for every question
    that has a plan."""
    traces: tuple[Path, ...] = ()
    """Recorded rollouts in the form of Search-R1's evaluation: JSONL with dataset, id, prompt, response."""
    traces_per_question: PositiveInt = 2
    """At most this many different traces of one question."""
    trajectories: tuple[Path, ...] = ()
    """Stored trajectories (`calibadv.data.trajectory_files`) to train on besides."""
    limit: Annotated[PositiveInt | None, Remedy("leave it out for all demonstrations")] = None
    """At most this many demonstrations in all, drawn with ``seed``; not set: all."""
    epochs: PositiveInt = 2
    """Passes over the demonstrations."""
    batch: PositiveInt = 32
    """Demonstrations per optimizer step, over all processes."""
    micro_batch: PositiveInt = 4
    """Most demonstrations in one forward and backward pass."""
    max_tokens: Annotated[int, Ge(64), Remedy("no demonstration is shorter")] = 4096
    """Longer demonstrations are left out."""
    learning_rate: PositiveFloat = 1e-5
    """AdamW's peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    warmup_steps: Count = 10
    """Optimizer steps of linear warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    save_every: PositiveInt = 100
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep_checkpoints: Annotated[PositiveInt | None, Remedy('"none" keeps all')] = 2
    """Newest complete checkpoints that stay; "none": all."""
    format_check: Count = 20
    """Questions that the trained model plays greedily at the end (of data.test, else of ``questions``); 0: none."""
    seed: Seed = 0
    """Seeds wording, order and draws."""
    output: Path | None = None
    """The folder: config, demonstrations, checkpoints, model. Not set: that of training.output with "-sft" added."""
