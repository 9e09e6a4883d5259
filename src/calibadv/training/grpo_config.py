"""`CalibAdvConfig`: TRL's ``GRPOConfig`` with the paper's defaults and the settings of this package."""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from transformers import SchedulerType
from trl import GRPOConfig

from calibadv.advantage import CalibrationConfig
from calibadv.errors import ConfigError
from calibadv.rewards.outcome import SCORES
from calibadv.rollout import RolloutConfig
from calibadv.training.overrides.trl_fields import ignored

OLD_LOGPROBS = ("auto", "sampled", "recomputed")
ADAPTIVE_SCHEDULES = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


@dataclass
class CalibAdvConfig(GRPOConfig):
    """What acts here of `trl.GRPOConfig`, and the fields below; the rest is refused (`overrides.trl_fields`).

    Changed defaults: token-mean loss with symmetric clipping (TRL's ``"dapo"`` normalisation), advantage epsilon and
    normalisation as the paper has it, no gradient checkpointing, one log line per optimizer step.
    """

    loss_type: str = field(default="dapo", metadata={"help": "TRL's name; 'dapo' is the paper's token mean."})
    activation_checkpointing: bool | None = field(
        default=False, metadata={"help": "Save memory by recomputing activations."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every this many optimizer steps."})
    shuffle_dataset: bool | None = field(
        default=False, metadata={"help": "Off: the order of questions is fixed before the run (step-exact resume)."}
    )
    questions_per_batch: int = field(
        default=8, metadata={"help": "Questions asked before each round of updates, over all processes."}
    )
    mini_batches: int = field(
        default=1, metadata={"help": "Optimizer steps per pass over a batch, each from as many of its rollouts."}
    )
    micro_batch_tokens: int = field(
        default=4096, metadata={"help": "Most tokens in one forward and backward pass, padding included."}
    )
    calibration: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Settings of calibadv.advantage.CalibrationConfig."}
    )
    rollout: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Settings of calibadv.rollout.RolloutConfig."}
    )
    reward_score: str = field(default="f1", metadata={"help": f"Score of the outcome reward: {', '.join(SCORES)}."})
    old_logprobs: str = field(
        default="auto",
        metadata={
            "help": "Where the old log-probabilities of the loss come from: 'sampled' (the policy's own), 'recomputed' "
            "(one more forward pass) or 'auto' (sampled in float32 at temperature 1, else recomputed)."
        },
    )
    lr_decay_steps: int | None = field(
        default=None,
        metadata={
            "help": "Optimizer steps after which the schedule reaches its end (at least max_steps, its default)."
        },
    )
    lr_decay_per: str = field(
        default="step",
        metadata={"help": "'batch' keeps the rate the same for all updates of a batch, 'step' changes it with each."},
    )
    vllm_engine_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "With use_vllm: further arguments of vllm.LLM, by name."}
    )
    vllm_gap_alarm: float = field(
        default=0.05,
        metadata={
            "help": "With use_vllm: warn when the log-probabilities of vLLM and of the trainer differ by more than "
            "this in the mean over a batch's sampled tokens."
        },
    )
    max_batches_without_signal: int = field(
        default=10,
        metadata={"help": "Stop after this many batches in a row in which no group holds two different rewards."},
    )

    def __post_init__(self) -> None:
        if self.lr_scheduler_type in ADAPTIVE_SCHEDULES:
            raise ConfigError(
                f"lr_scheduler_type '{SchedulerType(self.lr_scheduler_type).value}' follows evaluations that this "
                "trainer does not make: use 'cosine' or 'linear'"
            )
        self._refuse_without_effect()
        self._shape_batches()
        super().__post_init__()  # type: ignore[no-untyped-call]  # TRL leaves it without annotations
        if self.reward_score not in SCORES:
            raise ConfigError(f"reward.score must be one of {', '.join(SCORES)}, got {self.reward_score!r}")
        if self.old_logprobs not in OLD_LOGPROBS:
            raise ConfigError(f"old_logprobs must be one of {', '.join(OLD_LOGPROBS)}, got {self.old_logprobs!r}")
        if self.lr_decay_per not in ("step", "batch"):
            raise ConfigError(f"lr_decay_per must be step or batch, got {self.lr_decay_per!r}")
        if self.lr_decay_steps is not None and self.lr_decay_steps < self.max_steps:
            raise ConfigError(
                f"lr_decay_steps ({self.lr_decay_steps}) must be >= max_steps ({self.max_steps}): the rate would be 0 "
                "for the rest of the run"
            )
        if self.old_logprobs == "sampled" and self.use_vllm:
            raise ConfigError(
                "old_logprobs is 'sampled', but with use_vllm the old log-probabilities must be the trainer's: vLLM's "
                "differ a little, which the importance correction makes up for. Choose 'auto' or 'recomputed'"
            )
        if self.old_logprobs == "sampled" and self.temperature != 1:
            raise ConfigError(
                f"old_logprobs is 'sampled' at temperature {self.temperature}, but a policy reports log-probabilities "
                "at temperature 1 and the loss uses its own: choose 'auto' or 'recomputed'"
            )
        drawing = {"temperature": self.temperature, "top_p": self.top_p}
        self.rollout_config = RolloutConfig(**drawing | self.rollout)
        if self.rollout_config.temperature != self.temperature:
            raise ConfigError(
                f"rollout.temperature is {self.rollout_config.temperature}, but the loss scales its logits by "
                f"temperature {self.temperature}: give both the same value, or leave the one in rollout out"
            )
        self._check_correction()
        self.calibration_config = CalibrationConfig(**self.calibration)
        if self.calibration_config.needs_correctness and self.rollout_config.max_searches < 1:
            raise ConfigError(
                "calibration is on but rollout.max_searches is 0, so no query correctness can arrive: "
                'allow searches, or set calibration.soft_penalty = "none"'
            )

    def _check_correction(self) -> None:
        """vLLM reports what it sampled from, or the model's own probabilities at temperature 1; nothing in between."""
        correct = self.use_vllm and self.vllm_importance_sampling_correction
        if correct and self.temperature != 1 and self.top_p < 1:
            raise ConfigError(
                f"rollout.temperature is {self.temperature} and rollout.top_p {self.top_p}: vLLM then reports no "
                "log-probabilities that the trainer's can be compared with. Set one of them to 1, or "
                'training.engine_correction = "none"'
            )

    def _refuse_without_effect(self) -> None:
        """On the values as given: TRL's ``__post_init__`` fills some in and renames others."""
        defaults = {
            field.name: field.default if field.default_factory is MISSING else field.default_factory()
            for field in fields(self)
        }
        for problem in ignored(vars(self), defaults):
            raise ConfigError(problem)

    @property
    def vllm_arguments(self) -> dict[str, Any]:
        """``vllm_engine_args``, and which log-probabilities vLLM reports.

        At temperature 1 they are the model's own, as the trainer's are. At another they are those it sampled from,
        which the importance correction compares with the trainer's at that temperature.
        """
        at_temperature = self.temperature != 1 and self.vllm_importance_sampling_correction
        mode = "processed_logprobs" if at_temperature else "raw_logprobs"
        return self.vllm_engine_args | {"logprobs_mode": mode}

    def _shape_batches(self) -> None:
        """Say our batches in TRL's terms: every process plays its share at once, and makes a whole update in a step."""
        assert self.num_generations is not None
        self.per_device_train_batch_size = rows_per_process(
            self.questions_per_batch,
            num_rollouts=self.num_generations,
            mini_batches=self.mini_batches,
            processes=int(os.environ.get("WORLD_SIZE", "1")),  # set by accelerate and torchrun
        )
        if self.micro_batch_tokens < 1:
            raise ConfigError(f"training.micro_batch_tokens must be at least 1, got {self.micro_batch_tokens}")

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps made from each batch of rollouts."""
        return self.mini_batches * self.num_iterations


def rows_per_process(questions: int, *, num_rollouts: int, mini_batches: int, processes: int) -> int:
    """The rollouts that each process plays of a batch.

    >>> rows_per_process(512, num_rollouts=5, mini_batches=10, processes=8)
    320
    """
    if questions < 1 or questions % processes:
        raise ConfigError(
            f"training.questions_per_batch is {questions}, which {processes} processes cannot share evenly: make it a "
            f"multiple of {processes}"
        )
    if not 1 <= mini_batches <= questions * num_rollouts:
        raise ConfigError(
            f"training.mini_batches is {mini_batches}, but a batch has {questions * num_rollouts} rollouts "
            "(questions_per_batch * num_rollouts): choose from 1 to that many"
        )
    return questions // processes * num_rollouts
