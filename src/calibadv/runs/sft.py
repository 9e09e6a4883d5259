"""One supervised run from a `RunConfig`: demonstrations, training, a Hugging Face folder, a look at the format.

The folder holds ``config.toml``, ``demonstrations/`` and a report of what was left out, ``sft.jsonl`` (one line a
step), ``checkpoint-N/`` and ``model/``; ``model.path`` of a reinforcement run takes the latter.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from calibadv.config import RunConfig
from calibadv.config.run_folder import check_run_folder, claim_run_folder
from calibadv.data.config import draw, load_split
from calibadv.data.run_files import MODEL, SFT_METRICS, checkpoint_step, cut_metrics
from calibadv.errors import CalibAdvError, ConfigError
from calibadv.evaluation.evaluate import EvalResult, evaluate
from calibadv.io.files import write_json
from calibadv.io.retry import Retry
from calibadv.models.config import check_trainable_dtype, check_trainable_engine
from calibadv.models.load import load_model, load_policy, resolve_model
from calibadv.models.lora import add_adapter
from calibadv.models.sizes import read_shape
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.open import opened_retriever
from calibadv.rollout.tokenizer import HFTokenizer
from calibadv.rollout.tokenizer_checks import check_tokenizer
from calibadv.runs.demonstrations import (
    DATA,
    REPORT,
    collect,
    demonstrated_questions,
    read_collection,
    write_collection,
)
from calibadv.runs.train import in_training, quiet, where_to_resume
from calibadv.runs.trainer_args import precision, trains_on_cpu
from calibadv.training.checkpoints import checkpoint_to_resume, forget_after
from calibadv.training.launch import Launch
from calibadv.training.overrides.checkpoint_saving import save_policy
from calibadv.training.process_group import join_process_group, lost_process_explained
from calibadv.training.sft.tokenize import Example, make_examples
from calibadv.training.sft.trainer import DemonstrationTrainer, LossLines
from calibadv.training.signals import StopRequested, StopSignals
from calibadv.trajectory import Trajectory

logger = logging.getLogger(__name__)

Listener = Callable[[dict[str, Any]], None]


def sft_folder(config: RunConfig) -> Path:
    """Where the run goes."""
    return config.sft.output or config.training.output.with_name(f"{config.training.output.name}-sft")


def make_demonstrations(config: RunConfig, *, retriever: Retriever | None = None) -> dict[str, Any]:
    """Claim the folder and write the demonstrations, no more; the report comes back. ``resume`` then trains."""
    check_run_folder(placed(config), resume=False, part="sft")
    with opened_for_demonstrations(config, given=retriever) as searched:
        collection = collect(config, retriever=searched)
    claim_run_folder(placed(config), resume=False, part="sft")
    return write_collection(collection, sft_folder(config) / DATA)


def opened_for_demonstrations(config: RunConfig, *, given: Retriever | None) -> AbstractContextManager[Retriever]:
    """The run's retriever; demonstrations are searched for without a rollout, so it retries by itself."""
    return opened_retriever(config.retrieval, top_k=config.rollout.top_k, retry=Retry(), given=given)


def placed(config: RunConfig) -> RunConfig:
    """The config with the supervised run's folder as its output."""
    return replace(config, training=replace(config.training, output=sft_folder(config)))


def train_on_demonstrations(
    config: RunConfig, *, resume: bool = False, retriever: Retriever | None = None, listeners: Sequence[Listener] = ()
) -> Path:
    """Train as [sft] says and return the run's folder.

    ``resume`` continues from the last complete checkpoint, with the demonstrations that the folder holds. SIGINT and
    SIGTERM save a checkpoint and raise `StopRequested`.
    """
    folder = sft_folder(config)
    launch = Launch.read()
    launch.check_precision(config.model.dtype)
    launch.check_whole(what="supervised training")
    check_trainable_engine(config.model)
    config.check_adapter()
    check_trainable_dtype(config.model)
    check_run_folder(placed(config), resume=resume, part="sft")
    resolve_model(config.model)
    if config.lora.rank is not None:
        read_shape(config.model, lora=config.lora)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    made = None
    if resume and (folder / DATA / REPORT).exists():
        trajectories = read_collection(folder / DATA)
    else:
        with opened_for_demonstrations(config, given=retriever) as searched:
            made = collect(config, retriever=searched)
        trajectories = made.all
    explained = lost_process_explained(functools.partial(where_to_resume, folder))
    with explained, quiet(), StopSignals() as stop:
        join_process_group(
            processes=launch.processes,
            on_cpu=trains_on_cpu(config.model.device),
            timeout_s=config.training.ddp_timeout_s,
        )
        trainer, tokenizer = make_trainer(config, folder, trajectories, stop=stop, listeners=listeners)
        with trainer.args.main_process_first(local=False, desc="claiming the run's folder"):
            if trainer.is_world_process_zero():
                claim_run_folder(placed(config), resume=resume, part="sft")
                if made is not None:
                    write_collection(made, folder / DATA)
        run(trainer, folder, resume=resume)
        if trainer.is_world_process_zero():
            save_policy(trainer.policy_model, tokenizer, folder / MODEL)
    return folder


def make_trainer(
    config: RunConfig,
    folder: Path,
    trajectories: Sequence[Trajectory],
    *,
    stop: StopSignals,
    listeners: Sequence[Listener],
) -> tuple[DemonstrationTrainer, Any]:
    """The trainer over these demonstrations, and the tokenizer."""
    model, tokenizer = load_model(in_training(config.model, device=config.model.device))
    model = add_adapter(model, settings=config.lora, base=str(config.model.path), seed=config.sft.seed)
    adapter = HFTokenizer(tokenizer)
    check_tokenizer(adapter, name=str(config.model.path), rollout=config.rollout)
    examples, too_long = make_examples(
        trajectories, tokenizer=adapter, config=config.rollout, max_tokens=max_tokens(config, model)
    )
    if too_long:
        logger.warning("%d demonstrations are longer than sft.max_tokens and are left out", too_long)
    trainer = DemonstrationTrainer(
        model, args=arguments(config, folder, examples), examples=examples, tokenizer=tokenizer,
        pad_id=adapter.pad_id, stop=stop,
    )  # fmt: skip
    trainer.keep_checkpoints = config.sft.keep_checkpoints
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossLines(folder / SFT_METRICS, listeners=listeners))
    logger.info(
        "%d demonstrations, %d tokens to learn, %d optimizer steps",
        len(examples), sum(example.num_written for example in examples), trainer.args.max_steps,
    )  # fmt: skip
    return trainer, tokenizer


def max_tokens(config: RunConfig, model: Any) -> int:
    """sft.max_tokens, or the model's context if that is shorter."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(config.sft.max_tokens, positions or config.sft.max_tokens)


def arguments(config: RunConfig, folder: Path, examples: Sequence[Example]) -> TrainingArguments:
    """The run in the Trainer's terms."""
    settings = config.sft
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if len(examples) < settings.batch:
        raise ConfigError(f"sft.batch is {settings.batch}, but there are only {len(examples)} demonstrations; lower it")
    per_device, accumulation = micro_batch_shape(settings.batch, processes=processes, largest=settings.micro_batch)
    steps = settings.epochs * (len(examples) // settings.batch)
    schedule = settings.lr_schedule if settings.lr_schedule != "constant" else "constant_with_warmup"
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        dataloader_drop_last=True,
        train_sampling_strategy="group_by_length",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=min(settings.warmup_steps, steps // 2),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        **precision(config.model),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=min(settings.save_every, steps),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=[],
        seed=settings.seed,
        disable_tqdm=True,
    )


def micro_batch_shape(rows: int, *, processes: int, largest: int) -> tuple[int, int]:
    """Rows per forward pass and number of passes, for the rows of one batch over all processes.

    >>> micro_batch_shape(60, processes=1, largest=16)
    (15, 4)
    """
    if rows % processes:
        raise ConfigError(f"sft.batch is {rows}, which {processes} processes cannot share evenly: make it a multiple")
    rows //= processes
    per_device = max(size for size in range(1, min(rows, largest) + 1) if rows % size == 0)
    return per_device, rows // per_device


def run(trainer: DemonstrationTrainer, folder: Path, *, resume: bool) -> None:
    """Train to the end; whatever stops it, say where ``resume`` continues."""
    checkpoint = checkpoint_to_resume(folder) if resume else None
    if resume:
        forget_after(folder, checkpoint)
        cut_metrics(folder / SFT_METRICS, last_step=-1 if checkpoint is None else checkpoint_step(checkpoint))
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.stop.check()
    except (KeyboardInterrupt, CalibAdvError) as error:
        if isinstance(error, StopRequested) or trainer.state.global_step:
            logger.error("Stopped at step %d; %s", trainer.state.global_step, where_to_resume(folder))
        raise


def look_at_format(config: RunConfig, folder: Path, *, retriever: Retriever | None = None) -> EvalResult | None:
    """Let the trained model play a few questions greedily; None when ``sft.format_check`` is 0."""
    count = config.sft.format_check
    if not count:
        return None
    questions = load_split(config.data, "test") if config.data.test else demonstrated_questions(config)
    with opened_retriever(config.retrieval, top_k=config.rollout.top_k, given=retriever) as searched:
        model = replace(config.model, path=folder / MODEL, gguf_file=None)
        policy, tokenizer = load_policy(model, threads=config.training.threads)
        result = evaluate(
            draw(questions, limit=count, seed=config.sft.seed),
            policy=policy,
            retriever=searched,
            tokenizer=tokenizer,
            config=replace(config.rollout, temperature=0.0),
            seed=config.sft.seed,
            score=config.reward.score,
        )
    means = {name: estimate.mean for name, estimate in result.overall.estimates.items()}
    record = {"questions": len(result.grades)} | {
        name: value if value is None or math.isfinite(value) else None for name, value in means.items()
    }
    write_json(folder / "format_check.json", record, indent=1)
    return result


def format_text(result: EvalResult) -> str:
    """What `look_at_format` found, in one line."""
    means = result.overall.estimates
    return (
        f"Format check, {len(result.grades)} questions, greedy: {means['format_valid'].mean:.0%} valid format, "
        f"{means['answered'].mean:.0%} answered, {means['searches'].mean:.1f} searches, F1 {means['f1'].mean:.3f}"
    )
