"""The settings of a run in TRL's terms."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from calibadv.config import RunConfig
from calibadv.devices import usable_device
from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig, check_trainable_dtype
from calibadv.models.open_policy import read_engine_args
from calibadv.rollout.policies.vllm import DEFAULT_ROWS
from calibadv.training.config import TrainingConfig
from calibadv.training.grpo_config import CalibAdvConfig

logger = logging.getLogger(__name__)


def trainer_config(config: RunConfig, folder: Path, *, own_policy: bool = False) -> CalibAdvConfig:
    """The trainer's arguments for a run in ``folder``; ``own_policy``: ``model.engine`` plays no rollouts."""
    settings = config.training
    sections = config.effective()
    return CalibAdvConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        num_generations=settings.num_rollouts,
        questions_per_batch=settings.questions_per_batch,
        mini_batches=settings.mini_batches,
        micro_batch_tokens=settings.micro_batch_tokens,
        num_iterations=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule if settings.lr_schedule != "constant" else "constant_with_warmup",
        warmup_steps=warmup_steps(settings),
        lr_decay_steps=settings.lr_decay_steps,
        lr_decay_per=settings.lr_decay_per,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.activation_checkpointing,
        beta=settings.beta,
        entropy_coef=settings.entropy_coef,
        top_entropy_quantile=settings.top_entropy_quantile,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_completion_length=config.rollout.max_turn_tokens * (config.rollout.max_searches + 1),
        **precision(config.model),
        save_strategy="steps",
        save_steps=settings.save_every or settings.steps,  # the last step is always saved
        ddp_find_unused_parameters=False,
        report_to=available_trackers(settings.report_to),
        seed=settings.seed,
        disable_tqdm=True,
        calibration=asdict(config.active_calibration),
        rollout=sections["rollout"],
        reward_score=config.reward.score,
        max_batches_without_signal=settings.max_batches_without_signal,
        **loss_options(settings),
        **({} if own_policy or config.model.engine != "vllm" else vllm_options(config)),
    )


NOT_IN_TRAINING = {
    "model": "it is model.path",
    "tokenizer": "it is the model's",
    "distributed_executor_backend": "the engine runs in the training processes",
    "data_parallel_size": "every process, or group of tensor_parallel_size processes, has an engine",
    "pipeline_parallel_size": "there is tensor_parallel_size",
    "logprobs_mode": "training.engine_correction needs its own",
    "seed": "every turn has its own, from training.seed",
}
"""Arguments of vLLM that training sets itself, and why."""


def vllm_options(config: RunConfig) -> Mapping[str, Any]:
    """TRL's options for vLLM in the training process."""
    given = read_engine_args(config.model.engine_args)
    for name, reason in NOT_IN_TRAINING.items():
        if name in given:
            raise ConfigError(f"model.engine_args: {name} cannot be set in training ({reason}); leave it out")
    settings = config.training
    rows = config.model.max_rows or DEFAULT_ROWS
    correct = settings.engine_correction != "none"
    correction = {
        "vllm_importance_sampling_mode": settings.engine_correction,
        "vllm_importance_sampling_clip_max": settings.engine_correction_max,
    }
    return {
        "use_vllm": True,
        "vllm_gpu_memory_utilization": given.pop("gpu_memory_utilization", 0.3),
        "vllm_tensor_parallel_size": given.pop("tensor_parallel_size", 1),
        "vllm_enable_sleep_mode": given.pop("enable_sleep_mode", not trains_on_cpu(config.model.device)),
        "vllm_model_impl": given.pop("model_impl", "auto"),
        "vllm_max_model_length": given.pop("max_model_len", config.model.max_context),
        "vllm_engine_args": {"dtype": config.model.dtype, "max_num_seqs": rows} | given,
        "vllm_importance_sampling_correction": correct,
        "vllm_gap_alarm": settings.engine_gap_alarm,
        **(correction if correct else {}),
    }


def warmup_steps(settings: TrainingConfig) -> int:
    """The warm-up, at most as long as the run."""
    if settings.warmup_steps > settings.steps:
        logger.info(
            "training.warmup_steps (%d) is longer than the run: shortened to its %d steps",
            settings.warmup_steps,
            settings.steps,
        )
    return min(settings.warmup_steps, settings.steps)


def available_trackers(names: Sequence[str]) -> list[str]:
    """The names in ``training.report_to``; `ConfigError` for one that is unknown, or whose package is missing."""
    known = sorted(INTEGRATION_TO_CALLBACK)
    installed = set(get_available_reporting_integrations())  # type: ignore[no-untyped-call]  # no annotations there
    for name in names:
        if name not in known:
            raise ConfigError(f'training.report_to "{name}" is not a known tracker; choose from {", ".join(known)}')
        if name not in installed:
            raise ConfigError(f'training.report_to "{name}" needs a package that is not installed: pip install {name}')
    return list(names)


def precision(model: ModelConfig) -> dict[str, Any]:
    """The Trainer's options for the type that a run computes in, and for its device."""
    check_trainable_dtype(model)
    return {
        "bf16": model.dtype == "bfloat16",
        "fp16": model.dtype == "float16",
        "use_cpu": trains_on_cpu(model.device),
    }


def trains_on_cpu(name: str) -> bool:
    """Whether ``model.device`` means the CPU; of several accelerators the Trainer takes the first that it sees."""
    import torch

    device = torch.device(usable_device(name, setting="model.device"))
    if device.index:
        raise ConfigError(
            f'model.device "{name}" cannot be trained on: training takes the first visible device. Set '
            f'CUDA_VISIBLE_DEVICES={device.index} and model.device = "{device.type}"'
        )
    return bool(device.type == "cpu")


def loss_options(settings: TrainingConfig) -> Mapping[str, Any]:
    """TRL's options for a loss type and its clip range."""
    low, high = settings.clip, settings.clip_high
    if high is None:  # TRL caps the weight itself in "cispo", not its distance from 1
        high = 1 + low if settings.loss_type == "cispo" else low
    if settings.loss_type == "cispo":
        return {"loss_type": "cispo", "epsilon_high": high}  # there is no lower limit
    if settings.loss_type == "gspo":
        return {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": low, "epsilon_high": high}
    return {"loss_type": settings.loss_type, "epsilon": low, "epsilon_high": high}
