"""One training run from a `RunConfig`: folder, data, retriever, model, trainer, evaluations, checkpoints.

The run's folder holds ``config.toml`` (every effective setting), ``metrics.jsonl`` (one line a batch), ``eval.jsonl`` (one
line an evaluation), ``trajectories/`` (every rollout with its advantages), ``checkpoint-N/`` (to resume) and ``model/`` (the
trained policy, in Hugging Face form).
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from calibadv.config import RunConfig, claim_run_folder, load_split
from calibadv.errors import ConfigError, RetrieverUnavailable
from calibadv.evaluation.evaluate import EvalResult, evaluate, rollout_config_of
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.settings import open_retriever
from calibadv.training.callbacks import cut_metrics
from calibadv.training.config import CalibAdvConfig
from calibadv.training.load import load_model
from calibadv.training.trainer import METRICS, TRAJECTORIES, CalibAdvTrainer, NoSignalError
from calibadv.trajectory import Question

logger = logging.getLogger(__name__)

EVALUATIONS = "eval.jsonl"
MODEL = "model"
LOSSES = {"gspo": {"loss_type": "dapo", "importance_sampling_level": "sequence"}}

Listener = Callable[[dict[str, Any]], None]


def train(
    config: RunConfig, *, resume: bool = False, retriever: Retriever | None = None, listeners: Sequence[Listener] = ()
) -> Path:
    """Train as ``config`` says and return the run's folder.

    ``resume`` goes on from the last checkpoint of ``config.training.output``. ``listeners`` are called with every line of
    ``metrics.jsonl`` and ``eval.jsonl``. When the retriever stays away or nothing can be learned, a checkpoint is saved
    and the error raised.
    """
    config.check_trainable()
    settings = config.training
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    questions = load_split(config.data, "train", limit=config.data.limit)
    test = load_split(config.data, "test", limit=config.evaluation.limit) if settings.eval_every else []
    retriever = retriever or open_retriever(config.retrieval, top_k=config.rollout.top_k)
    folder = claim_run_folder(config, resume=resume)
    checkpoint = last_checkpoint(folder) if resume else None
    model, tokenizer = load_model(config.model)
    forget_after(folder, last_step=checkpoint_step(checkpoint))

    with warnings.catch_warnings():
        # TRL 1.16 still uses names that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)
        trainer = CalibAdvTrainer(
            model,
            args=trainer_config(config, folder),
            train_questions=questions,
            retriever=retriever,
            processing_class=tokenizer,
        )
        trainer.batch_metrics.listeners += listeners
        evaluation = PeriodicEvaluation(config, test=test, retriever=retriever, trainer=trainer, listeners=listeners)
        if test:
            trainer.add_callback(evaluation)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except (RetrieverUnavailable, NoSignalError):
            # Raised between batches: weights, optimizer and random state are those of the last completed batch.
            trainer._save_checkpoint(trainer.model, trial=None)
            logger.error("Saved a checkpoint at step %d in %s; --resume goes on there", trainer.state.global_step, folder)
            raise
        trainer.save_model(str(folder / MODEL))
    return folder


def trainer_config(config: RunConfig, folder: Path) -> CalibAdvConfig:
    """The run's settings in TRL's terms (METHOD section 6)."""
    settings = config.training
    rows = settings.questions_per_batch * settings.num_rollouts // settings.mini_batches
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by accelerate and torchrun
    per_device, accumulation = micro_batch_shape(rows, processes=processes, largest=settings.micro_batch)
    half = {"bfloat16": "bf16", "float16": "fp16"}.get(config.model.dtype)
    calibration = config.active_calibration
    sections = config.effective()
    return CalibAdvConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        num_generations=settings.num_rollouts,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * settings.mini_batches,
        num_iterations=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_schedule if settings.lr_schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        epsilon=settings.clip,
        epsilon_high=settings.clip,
        beta=0.0,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_completion_length=config.rollout.max_turn_tokens * (config.rollout.max_searches + 1),
        bf16=half == "bf16",
        fp16=half == "fp16",
        use_cpu=config.model.device == "cpu" or not torch.cuda.is_available(),
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or settings.steps,
        report_to=list(settings.report_to),
        seed=settings.seed,
        disable_tqdm=True,
        calibration=None if calibration is None else sections["calibration"],
        rollout=sections["rollout"],
        reward_score=config.reward.score,
        max_batches_without_signal=settings.max_batches_without_signal,
        **LOSSES.get(settings.loss_type, {"loss_type": settings.loss_type}),
    )


def micro_batch_shape(rows: int, *, processes: int, largest: int) -> tuple[int, int]:
    """Rows per forward pass and number of passes, for the rows of one mini-batch over all processes.

    >>> micro_batch_shape(60, processes=1, largest=16)
    (15, 4)
    """
    if rows % processes:
        raise ConfigError(
            f"a mini-batch has {rows} rollouts, which {processes} processes cannot share evenly: change "
            "training.questions_per_batch or training.num_rollouts"
        )
    rows //= processes
    per_device = max(size for size in range(1, min(rows, largest) + 1) if rows % size == 0)
    return per_device, rows // per_device


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of a run; None when it was stopped before the first (it then starts anew)."""
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def checkpoint_step(checkpoint: str | None) -> int:
    """The optimizer step that a checkpoint was saved at; 0 for none."""
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0


def forget_after(folder: Path, *, last_step: int) -> None:
    """Drop what the interrupted run recorded after its last checkpoint: the resumed run records it again."""
    for name in (METRICS, EVALUATIONS):
        if (folder / name).exists():
            cut_metrics(folder / name, last_step=last_step)
    for path in (folder / TRAJECTORIES).glob("step-*.jsonl.gz"):
        if int(path.name.split("-")[1].split(".")[0]) > last_step:
            path.unlink()


class PeriodicEvaluation(TrainerCallback):  # type: ignore[misc]
    """Evaluates on the test questions before the first step, every ``eval_every`` steps, and at the end."""

    def __init__(
        self,
        config: RunConfig,
        *,
        test: Sequence[Question],
        retriever: Retriever,
        trainer: CalibAdvTrainer,
        listeners: Sequence[Listener],
    ) -> None:
        self.config = config
        self.test = test
        self.retriever = retriever
        self.trainer = trainer
        self.listeners = listeners

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The base policy."""
        if state.global_step == 0:
            self.evaluate(step=0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The policy as trained so far."""
        if state.global_step % self.config.training.eval_every == 0 or state.global_step == state.max_steps:
            self.evaluate(step=state.global_step)

    def evaluate(self, *, step: int) -> None:
        """Write one line to ``eval.jsonl``."""
        with self.trainer.clock.lap("eval"):
            result = evaluate_policy(self.config, self.test, trainer=self.trainer, retriever=self.retriever)
        line = eval_line(result, step=step)
        with (self.trainer.run_dir / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        for listener in self.listeners:
            listener(line)


def evaluate_policy(
    config: RunConfig, questions: Sequence[Question], *, trainer: CalibAdvTrainer, retriever: Retriever
) -> EvalResult:
    """Evaluate the trainer's current weights."""
    return evaluate(
        questions,
        policy=trainer.policy,
        retriever=retriever,
        tokenizer=trainer.processing_class,
        config=rollout_config_of(config.evaluation, config.rollout),
        samples=config.evaluation.samples,
        seed=config.training.seed,
        score=config.reward.score,
    )


def eval_line(result: EvalResult, *, step: int) -> dict[str, Any]:
    """One evaluation as a flat record: the mean of every metric, and standard error and 95 % interval of F1."""
    overall = result.overall
    f1 = overall.estimates["f1"]
    return {
        "step": step,
        "questions": overall.num_questions,
        **{name: estimate.mean for name, estimate in overall.estimates.items()},
        "f1_se": f1.standard_error,
        "f1_low": f1.low,
        "f1_high": f1.high,
        "seconds": overall.seconds,
    }
