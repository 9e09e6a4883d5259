"""What every field of TRL's ``GRPOConfig`` does here: it acts, it acts under a condition, or it is refused.

A field that is accepted and ignored would let a run claim what it did not do. The tables hold all fields of the TRL
that is pinned, those of transformers' ``TrainingArguments`` among them; a test fails on a field that they do not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DRAWING = "rollouts draw by temperature and top_p"
TRL_GENERATION = "TRL's own generation is not used"
EVALUATION = "evaluations are made by calibadv.evaluate and training.eval_every"
LOADING = "the model is loaded before"
GRPO_LOSS = "the loss is that of loss_type"
SCRIPTS = "only scripts of transformers read it"
BATCHES = "batches are shaped by questions_per_batch, mini_batches and micro_batch_tokens"
COLUMNS = "the rows of a batch are those of the rollouts"

WITHOUT_EFFECT = {
    "top_k": DRAWING,
    "min_p": DRAWING,
    "repetition_penalty": DRAWING,
    "generation_kwargs": DRAWING,
    "cache_implementation": TRL_GENERATION,
    "use_transformers_continuous_batching": TRL_GENERATION,
    "transformers_continuous_batching_config": TRL_GENERATION,
    "use_transformers_paged": TRL_GENERATION,
    "ds3_gather_for_generation": TRL_GENERATION,
    "vllm_structured_outputs_regex": "turns are free text",
    **dict.fromkeys(
        ("vllm_mode", "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout",
         "vllm_group_port"),
        "vLLM runs in the training process",
    ),
    "vllm_importance_sampling_cap": "TRL calls it vllm_importance_sampling_clip_max now",
    "chat_template_kwargs": "prompts are rendered by the rollout",
    "max_tool_calling_iterations": "rollout.max_searches is the limit",
    "shuffle_dataset": "the order of the questions is fixed before the run",
    "pad_to_multiple_of": "micro-batches are trimmed to their longest row",
    "scale_rewards": "advantages are those of calibration.estimator",
    "reward_weights": "the outcome reward is the only one",
    "multi_objective_aggregation": "the outcome reward is the only one",
    "mask_truncated_completions": "every token that the policy wrote is trained",
    "num_generations_eval": EVALUATION,
    "model_init_kwargs": LOADING,
    "trust_remote_code": LOADING,
    "cast_lm_head_to_fp32": "weights are float32 already",
    "log_multimodal": "rollouts are text",
    "steps_per_generation": BATCHES,
    "generation_batch_size": BATCHES,
    # of transformers' TrainingArguments
    "per_device_train_batch_size": BATCHES,
    "gradient_accumulation_steps": BATCHES,
    "num_train_epochs": "max_steps says how long a run is",
    "label_smoothing_factor": GRPO_LOSS,
    "average_tokens_across_devices": GRPO_LOSS,
    "use_cache": "updates need no cache, and rollouts keep their own",
    "data_seed": "seed decides the order of the questions",
    "train_sampling_strategy": "the order of the questions is fixed before the run",
    "length_column_name": "the order of the questions is fixed before the run",
    "remove_unused_columns": COLUMNS,
    "label_names": COLUMNS,
    "resume_from_checkpoint": "the trainer's train() takes the checkpoint",
    "logging_steps": "every update is logged, so that every batch has its line in metrics.jsonl",
    "logging_strategy": "every update is logged, so that every batch has its line in metrics.jsonl",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), SCRIPTS),
    **dict.fromkeys(
        ("bf16_full_eval", "fp16_full_eval", "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size",
         "prediction_loss_only", "eval_on_start", "eval_do_concat_batches", "eval_use_gather_object",
         "eval_accumulation_steps", "include_for_metrics", "batch_eval_metrics", "load_best_model_at_end",
         "metric_for_best_model", "greater_is_better"),
        EVALUATION,
    ),
}  # fmt: skip
"""Fields that have no effect here, and why; another value than the default is refused."""

CLIPPED = ("dapo", "grpo", "dr_grpo", "bnpo", "luspo")
NEEDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "epsilon": ("loss_type", CLIPPED),
    "delta": ("loss_type", CLIPPED),
    "epsilon_high": ("loss_type", (*CLIPPED, "cispo")),
    **dict.fromkeys(("sapo_temperature_pos", "sapo_temperature_neg"), ("loss_type", ("sapo",))),
    **dict.fromkeys(("vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg"), ("loss_type", ("vespo",))),
    **dict.fromkeys(
        ("entropy_target", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta"),
        ("use_adaptive_entropy", (True,)),
    ),
    **dict.fromkeys(("ref_model_mixup_alpha", "ref_model_sync_steps"), ("sync_ref_model", (True,))),
    **dict.fromkeys(("sync_ref_model", "use_bias_correction_kl"), ("beta", ())),
    **dict.fromkeys(
        ("num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"), ("log_completions", (True,))
    ),
    **dict.fromkeys(
        ("vllm_model_impl", "vllm_enable_sleep_mode", "vllm_gpu_memory_utilization", "vllm_max_model_length",
         "vllm_tensor_parallel_size", "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
         "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min", "vllm_engine_args",
         "vllm_gap_alarm"),
        ("use_vllm", (True,)),
    ),
}  # fmt: skip
"""Fields that act only while another one has one of some values (none named: any but 0); else they are refused."""

WITH_EFFECT = frozenset(
    {
        "beta", "disable_dropout", "entropy_coef", "importance_sampling_level",
        "log_completions", "loss_type", "max_completion_length", "num_generations", "num_iterations",
        "off_policy_mask_threshold", "router_aux_loss_coef", "temperature",
        "top_entropy_quantile", "top_p", "use_adaptive_entropy", "use_vllm",
    }
)  # fmt: skip
"""TRL's own fields that act here as TRL documents them."""

OF_THE_TRAINER = frozenset(
    {
        "output_dir", "max_steps", "learning_rate", "lr_scheduler_type",
        "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "optim_target_modules", "weight_decay",
        "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16",
        "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
        "use_liger_kernel", "liger_kernel_config", "neftune_noise_alpha", "torch_empty_cache_steps",
        "auto_find_batch_size", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
        "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm", "report_to",
        "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
        "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit",
        "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
        "hub_always_push", "hub_revision", "ignore_data_skip", "restore_callback_states_from_checkpoint",
        "full_determinism", "seed", "use_cpu", "local_rank", "accelerator_config", "parallelism_config", "fsdp",
        "fsdp_config", "deepspeed", "debug", "skip_memory_metrics", "ddp_find_unused_parameters",
        "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout",
        "dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory",
        "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
        "dataloader_in_order",
    }
)  # fmt: skip
"""Fields of ``TrainingArguments`` that transformers' Trainer acts on here as anywhere."""


def ignored(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with each field that was changed and would do nothing."""
    for name, default in defaults.items():
        if values[name] == default:
            continue
        if name in WITHOUT_EFFECT:
            yield f"{name} = {values[name]!r} would have no effect: {WITHOUT_EFFECT[name]}. Leave it out"
        elif name in NEEDS:
            other, wanted = NEEDS[name]
            if values[other] not in wanted if wanted else not values[other]:
                what = " or ".join(map(repr, wanted)) if wanted else "above 0"
                yield (
                    f"{name} = {values[name]!r} would have no effect: it needs {other} {what}, and that is "
                    f"{values[other]!r}. Leave it out, or change {other}"
                )
