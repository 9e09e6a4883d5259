"""What a run is: which algorithm, how much, how fast. Light (no torch); `calibadv.runs.train` maps it to TRL.

Defaults suit a first run; `docs/recipes.md` has the published values, and the recipes in `configs/` set them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from calibadv.config_class import (
    Count,
    Name,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Remedy,
    Seed,
    config_class,
)
from calibadv.errors import ConfigError
from calibadv.rewards.outcome import ScoreName


@config_class("algorithm")
class AlgorithmConfig:
    """What turns rewards into advantages."""

    name: Literal["calibadv", "grpo"] = "calibadv"
    """"calibadv" applies the soft penalty and the rebalance of [calibration]; "grpo" leaves the advantages alone."""


@config_class("training")
class TrainingConfig:
    """Batches, optimizer and output of one run.

    A *batch* is ``questions_per_batch`` x ``num_rollouts`` trajectories; it gives ``mini_batches`` x ``epochs``
    optimizer steps.
    """

    ALSO_CALLED: ClassVar[Mapping[str, str]] = {
        "epsilon": "clip", "clip_low": "clip", "clip_ratio": "clip", "clip_ratio_low": "clip",
        "epsilon_high": "clip_high", "clip_ratio_high": "clip_high",
        "kl_coef": "beta", "kl_loss_coef": "beta", "init_kl_coef": "beta",
        "entropy_coeff": "entropy_coef", "entropy_bonus": "entropy_coef",
        "max_steps": "steps", "num_generations": "num_rollouts", "group_size": "num_rollouts",
        "num_iterations": "epochs", "ppo_epochs": "epochs", "lr": "learning_rate", "lr_scheduler_type": "lr_schedule",
        "micro_batch": "micro_batch_tokens", "ppo_micro_batch_size": "micro_batch_tokens",
        "train_batch_size": "questions_per_batch", "ppo_mini_batch_size": "mini_batches",
        "reference_model": "reference", "ref_model": "reference", "output_dir": "output", "save_steps": "save_every",
        "eval_steps": "eval_every", "save_total_limit": "keep_checkpoints", "curriculum": "order",
    }  # fmt: skip
    """Names in other trainers -> ours, for messages."""

    steps: PositiveInt = 410
    """Optimizer steps in all; a multiple of ``mini_batches * epochs``."""
    questions_per_batch: PositiveInt = 512
    """Questions asked before each round of updates."""
    num_rollouts: Annotated[int, Ge(2), Remedy("advantages compare the rollouts of one question; the paper uses 5")] = 5
    """Rollouts per question (the group size G); at least 2."""
    mini_batches: PositiveInt = 2
    """Optimizer steps per pass over a batch. Each is made from an equal share of the batch's rollouts (one more where
    their number does not divide), in the order of the questions; it may begin and end within a question's group. The
    published runs make 10 of 256 rollouts."""
    epochs: PositiveInt = 1
    """Passes over each batch."""
    micro_batch_tokens: PositiveInt = 4096
    """Most tokens (padding included) in one forward and backward pass of a process; a longer rollout has a pass of its
    own. More takes more memory, and saves time only until the device is busy. The loss does not depend on it."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: far less memory, a third more time."""
    ddp_timeout_s: PositiveFloat = 1800.0
    """With several processes: seconds that one waits for another before the run ends. More than the rollouts of the
    slowest process may take beyond those of the fastest."""
    max_batches_without_signal: PositiveInt = 10
    """Stop after this many batches in a row in which no group holds two different rewards, or no update could be made
    because gradients were not finite."""
    learning_rate: PositiveFloat = 5e-7
    """AdamW's peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    lr_decay_steps: Annotated[PositiveInt | None, Remedy("leave it out to decay over training.steps")] = None
    """Optimizer steps after which a cosine or linear schedule reaches 0; at least ``steps``. Not set: ``steps``. The
    published runs end half-way down."""
    lr_decay_per: Literal["step", "batch"] = "step"
    """"batch" keeps the rate of a cosine or linear schedule the same for all updates of a batch, as the published runs
    do; "step" lowers it with every optimizer step. The warm-up rises with every step either way."""
    warmup_steps: Count = 0
    """Optimizer steps of linear warm-up; in a shorter run it takes the whole run, and that is said."""
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's moment decays."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled weight decay; 0.01 in the published runs."""
    clip: PositiveFloat = 0.2
    """PPO clip range: probability ratios count up to ``1 - clip`` below, and up to ``1 + clip`` above unless
    ``clip_high`` is set."""
    clip_high: PositiveFloat | None = None
    """Upper clip range (DAPO's clip-higher, 0.28 there): ratios count up to ``1 + clip_high``; not set: ``clip``. With
    loss_type "cispo" it is the largest weight itself, as TRL's ``epsilon_high`` (5.0 in ScaleRL); not set:
    ``1 + clip``."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the reference model in the loss (TRL's ``beta``; Search-R1 takes 0.001). 0, as
    in the paper: no KL term and no reference model."""
    reference: Path | Name | None = None
    """The reference model, named as ``model.path`` is, with the same tokenizer; not set: the model as training finds
    it. With an adapter it is always the model without it."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus: the loss is lowered by this times the mean entropy of the trained tokens (TRL's
    ``entropy_coef``, a mean over each micro-batch). 0, as in the paper: none. Negative values make the policy surer."""
    top_entropy_quantile: PositiveFraction = 1.0
    """Share of the trained tokens of a micro-batch, those of highest entropy, that the advantages act on (TRL's
    ``top_entropy_quantile``; 0.2 in "Beyond the 80/20 rule"). 1: all of them."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "cispo", "gspo"] = "dapo"
    """How token losses are put together, in TRL's names: "dapo" is the paper's mean over all tokens of a batch, "grpo"
    the mean of trajectory means, "dr_grpo" divides by a constant, "cispo" caps the weight of a token and keeps its
    gradient, "gspo" has one ratio a trajectory."""
    save_every: Count = 50
    """Optimizer steps between checkpoints; 0 keeps only the last. A multiple of ``mini_batches * epochs``."""
    keep_checkpoints: Annotated[PositiveInt | None, Remedy("leave it out to keep all")] = None
    """Keep this many of the newest complete checkpoints and delete older ones; not set: all stay."""
    eval_every: Count = 0
    """Optimizer steps between evaluations on data.test; 0 never evaluates during training."""
    eval_per_dataset: Annotated[PositiveInt | None, Remedy("leave it out for all questions")] = None
    """Ask at most this many questions of each data set in the evaluations during training, the same ones every time
    (drawn with ``data.seed``); not set: all that [evaluation] leaves. `calibadv eval` asks all of them."""
    best_metric: Literal[ScoreName, "reward", "none"] = "f1"
    """The evaluation with the best value of this metric leaves its weights in ``best/``, if it beats the base model;
    "none" keeps none."""
    engine_correction: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    """For model.engine "vllm", whose probabilities differ a little from the trainer's: the loss of every sampled token
    (or of every rollout, "sequence") is weighted by the ratio of the trainer's probability to the engine's. Ratios
    above ``engine_correction_max`` are cut to it ("truncate") or their loss is left out ("mask"). "none": no weights,
    and then no ``logprob_gap`` in metrics.jsonl either."""
    engine_correction_max: PositiveFloat = 2.0
    """Largest weight of ``engine_correction``."""
    engine_gap_alarm: PositiveFloat = 0.05
    """For model.engine "vllm": warn when the log-probabilities of engine and trainer differ by more than this (nats,
    the mean of the absolute difference over a batch's sampled tokens; ``logprob_gap`` in metrics.jsonl)."""
    order: str = "shuffled"
    """In which order the questions are asked: "shuffled", in seeded passes over all of them, or the import path
    ``package.module:name`` of an order of yours, such as a curriculum (`calibadv.data.question_order.Order`)."""
    seed: Seed = 0
    """Seeds the order of the questions and every draw."""
    threads: PositiveInt | None = None
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
        if self.loss_type == "cispo" and self.clip_high is not None and self.clip_high <= 1:
            raise ConfigError(
                'training.clip_high must be > 1 with training.loss_type "cispo", where it is the largest weight of a '
                f"token and no distance from 1; got {self.clip_high}"
            )
        if self.reference is not None and self.beta == 0:
            raise ConfigError(
                f'training.reference "{self.reference}" would have no effect while training.beta is 0: set '
                "training.beta, such as 0.001, or leave the reference out"
            )
        rollouts = self.questions_per_batch * self.num_rollouts
        if self.mini_batches > rollouts:
            raise ConfigError(
                f"training.mini_batches is {self.mini_batches}, but a batch has {rollouts} rollouts "
                "(training.questions_per_batch * training.num_rollouts): choose at most that many"
            )
        self._check_schedule()
        updates = self.updates_per_batch
        for name in ("steps", "save_every", "eval_every"):
            if getattr(self, name) % updates:
                raise ConfigError(
                    f"training.{name} must be a multiple of mini_batches * epochs ({updates} optimizer steps a batch), "
                    f"got {getattr(self, name)}"
                )

    def _check_schedule(self) -> None:
        if self.lr_schedule == "constant":
            for name, default in (("lr_decay_steps", None), ("lr_decay_per", "step")):
                if getattr(self, name) != default:
                    raise ConfigError(
                        f"training.{name} = {getattr(self, name)!r} has no effect with training.lr_schedule = "
                        '"constant": leave it out, or choose "cosine" or "linear"'
                    )
        if self.lr_decay_steps is not None and self.lr_decay_steps < self.steps:
            raise ConfigError(
                f"training.lr_decay_steps ({self.lr_decay_steps}) must be >= training.steps ({self.steps}): the rate "
                "would be 0 for the rest of the run"
            )


def check_engine_settings(config: TrainingConfig, *, engine: str) -> None:
    """Refuse what has an effect with vLLM alone."""
    if engine == "vllm":
        return
    for setting in fields(config):
        value = getattr(config, setting.name)
        if setting.name.startswith("engine_") and value != setting.default:
            raise ConfigError(
                f'training.{setting.name} = {value!r} is for model.engine "vllm", but the engine is "{engine}": '
                "leave it out"
            )
