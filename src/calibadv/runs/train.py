"""One training run from a `RunConfig`: folder, data, retriever, model, trainer, evaluations, checkpoints.

The run's folder holds ``config.toml`` (every effective setting), ``metrics.jsonl`` (one line a batch), ``eval.jsonl``
(one line an evaluation), ``trajectories/`` (every rollout with its advantages), ``checkpoint-N/`` (to resume) and
``model/`` (the trained policy, in Hugging Face form); ``best/`` is the policy of the best evaluation.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback

from calibadv.advantage import Estimator, open_estimator
from calibadv.config import RunConfig
from calibadv.config.run_folder import check_run_folder, claim_run_folder
from calibadv.data.config import draw_per_dataset, load_files, load_split
from calibadv.data.question_order import Order, WeightedOrder, find_order
from calibadv.data.run_files import METRICS, MODEL, checkpoint_step
from calibadv.devices import without_progress_bars
from calibadv.errors import CalibAdvError, ConfigError, EngineFailed, RetrieverUnavailable, SaveError
from calibadv.models.config import ModelConfig
from calibadv.models.engine import Engine, find_engine, open_engine
from calibadv.models.load import load_model, resolve_model
from calibadv.models.lora import add_adapter
from calibadv.models.open_policy import plain_folder
from calibadv.models.reference import check_reference, load_reference
from calibadv.models.sizes import read_shape
from calibadv.registry import is_import_path
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.open import opened_retriever
from calibadv.rewards.reward import Reward, open_reward
from calibadv.rollout.policies.transformers import TransformersPolicy
from calibadv.rollout.policies.vllm import require_trainable_vllm
from calibadv.rollout.policy import Policy
from calibadv.rollout.tokenizer import HFTokenizer
from calibadv.rollout.tokenizer_checks import check_tokenizer
from calibadv.runs.provenance import own_objects, record_run
from calibadv.runs.step_lines import StepLines, is_interactive
from calibadv.runs.trainer_args import trainer_config, trains_on_cpu
from calibadv.training.checkpoints import checkpoint_to_resume, forget_after, last_checkpoint
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.launch import Launch
from calibadv.training.no_signal import NoSignalError
from calibadv.training.overrides.checkpoint_saving import DISK_ERRORS, explain, save_policy
from calibadv.training.periodic_evaluation import Listener, PeriodicEvaluation
from calibadv.training.process_group import (
    check_same_settings,
    join_process_group,
    lost_process_explained,
    together,
)
from calibadv.training.signals import StopRequested, StopSignals
from calibadv.training.trainer import CalibAdvTrainer
from calibadv.trajectory import Question

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    reward: Reward | None = None,
    estimator: Estimator | None = None,
    retriever: Retriever | None = None,
    policy: Policy | Engine | None = None,
    order: Order | None = None,
    listeners: Sequence[Listener] = (),
    progress: bool | None = None,
) -> Path:
    """Train as ``config`` says.

    Weights and optimizer are float32 whatever ``model.dtype`` says: "bfloat16" and "float16" run the model in that type
    (autocast), in rollouts and updates alike, because steps as small as 5e-7 would be rounded away in bfloat16 weights.

    Args:
        config: Everything that the run depends on.
        resume: Continue from the last complete checkpoint of ``config.training.output``.
        reward: ``(trajectory) -> float`` in the place of ``reward.function`` (`calibadv.rewards.reward.Reward`).
        estimator: ``(batch) -> [N, K]`` in the place of ``calibration.estimator``.
        retriever: What is searched, in the place of the [retrieval] section.
        policy: What plays the rollouts with the weights being trained, in the place of ``model.engine``
            (`calibadv.models.engine.Engine`), or a ready policy.
        order: In which order questions are asked, in the place of ``training.order``.
        listeners: Called with every line of ``metrics.jsonl`` and ``eval.jsonl``.
        progress: Show a line for every batch, with the time left. None: when a terminal or a notebook is there.

    Returns:
        The run's folder (``config.training.output``).

    Raises:
        ConfigError: A setting cannot be used, or one of your objects returned what it must not.
        DataError: A file of questions or documents cannot be used.
        RetrieverUnavailable: The retriever is gone for good; a checkpoint was saved.
        EngineFailed: vLLM failed in the middle of a rollout, or refused the weights; so too.
        NoSignalError: Nothing could be learned for ``training.max_batches_without_signal`` batches, or every update
            was skipped; so too.
        StopRequested: SIGINT or SIGTERM; so too.
    """
    config.check_trainable()
    launch = Launch.read()
    launch.check_precision(config.model.dtype)
    launch.check_checkpointing(ours=config.training.activation_checkpointing)
    if policy is None:
        launch.check_engine(config.model.engine)
    own = own_objects(config, reward=reward, estimator=estimator, retriever=retriever, policy=policy, order=order)
    reward = open_reward(reward or config.reward.function, score=config.reward.score)
    estimator = open_estimator(estimator or config.active_calibration.estimator)
    order = find_order(order or config.training.order)
    if policy is not None or is_import_path(config.model.engine):
        policy = find_engine(policy or config.model.engine)
    settings = config.training
    if settings.reference is not None:
        check_reference(config.model, settings.reference)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with ExitStack() as stack:
        stack.enter_context(lost_process_explained(functools.partial(where_to_resume, settings.output)))
        join_process_group(
            processes=launch.processes,
            on_cpu=trains_on_cpu(config.model.device),
            timeout_s=settings.ddp_timeout_s,
        )
        with together(num_processes=launch.processes):
            check_same_settings(config.effective(), num_processes=launch.processes)
            check_run_folder(config, resume=resume)
            resolve_model(config.model)
            if config.lora.rank is not None:
                read_shape(config.model, lora=config.lora)  # refuses layers and ranks that the model does not have
            if policy is None and config.model.engine == "vllm":
                require_trainable_vllm()
            args = trainer_config(config, settings.output, own_policy=policy is not None)
            files = load_files(config.data, "train", limit=config.data.limit)
            questions = [question for file in files for question in file]
            if order is None and config.data.train_weights:
                order = WeightedOrder(sizes=tuple(map(len, files)), weights=config.data.train_weights)
            test = periodic_questions(config) if settings.eval_every else []
        searched = opened_retriever(config.retrieval, top_k=config.rollout.top_k, given=retriever)
        retriever = stack.enter_context(searched)
        stack.enter_context(quiet())
        stop = stack.enter_context(StopSignals())
        if is_interactive() if progress is None else progress:
            lines = StepLines(settings.steps, steps_per_batch=settings.updates_per_batch)
            listeners = [*listeners, stack.enter_context(lines)]
        if args.use_vllm:
            folder = stack.enter_context(plain_folder(config.model, resolve_model(config.model)))
            args.vllm_engine_args["model"] = folder
        held = in_training(config.model, device="cpu" if launch.is_sharded else config.model.device)
        model, tokenizer = load_model(held)
        check_tokenizer(HFTokenizer(tokenizer), name=str(config.model.path), rollout=config.rollout)
        model = add_adapter(model, settings=config.lora, base=str(config.model.path), seed=settings.seed)
        trainer = CalibAdvTrainer(
            model, args=args, train_questions=questions, retriever=retriever, processing_class=tokenizer,
            policy=None if args.use_vllm else functools.partial(make_policy, config=config.model, engine=policy),
            reward=reward, estimator=estimator, order=order, stop=stop,
            reference=None if settings.reference is None else load_reference(held, settings.reference),
        )  # fmt: skip
        stack.callback(trainer.close)
        is_sharding = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        launch.check_applied(is_sharding=is_sharding, device=str(args.device))
        trainer.keep_checkpoints = settings.keep_checkpoints
        trainer.remove_callback(PrinterCallback)
        trainer.batch_metrics.listeners += listeners
        if test:
            evaluation = PeriodicEvaluation(
                trainer, test=test, settings=settings, evaluation=config.evaluation, rollout=config.rollout,
                score=config.reward.score, retriever=retriever, reward=reward, listeners=listeners,
            )  # fmt: skip
            trainer.add_callback(evaluation)
        # Only now: what could not even start leaves no folder behind that the next try would have to avoid.
        checkpoint = prepare_folder(config, args, resume=resume)
        if trainer.is_world_process_zero():
            record_run(settings.output, own=own, resumed=checkpoint is not None)
        run(trainer, checkpoint)
        save_policy(trainer.policy_model, tokenizer, settings.output / MODEL, writes=trainer.is_world_process_zero())
    return settings.output


def periodic_questions(config: RunConfig) -> list[Question]:
    """What the evaluations during training ask."""
    test = load_split(config.data, "test", limit=config.evaluation.limit)
    return draw_per_dataset(test, limit=config.training.eval_per_dataset, seed=config.data.seed)


def in_training(config: ModelConfig, *, device: str) -> ModelConfig:
    """How the model is loaded: in float32, because it is updated, unless only an adapter on packed weights is."""
    if config.quantization and device != config.device:
        raise ConfigError(
            f'model.quantization "{config.quantization}" cannot be used with sharded weights (FSDP, DeepSpeed): packed '
            "weights are small; start the run with torchrun alone"
        )
    return replace(config, dtype=config.dtype if config.quantization else "float32", device=device)


def make_policy(model: Any, tokenizer: Any, *, config: ModelConfig, engine: Policy | Engine | None) -> Policy:
    """The policy that plays the rollouts with the weights being trained."""
    if engine is not None:
        return open_engine(engine, config, tokenizer=HFTokenizer(tokenizer), model=model)
    return TransformersPolicy(model, tokenizer, max_rows=config.max_rows, max_context=config.max_context)


def prepare_folder(config: RunConfig, args: CalibAdvConfig, *, resume: bool) -> Path | None:
    """Claim the run's folder (the main process does it for all) and find the checkpoint to continue from."""
    folder = config.training.output
    with args.main_process_first(local=False, desc="claiming the run's folder"):
        # The first process deletes what is damaged: the others find only what it has read.
        checkpoint = checkpoint_to_resume(folder, verify=args.process_index == 0) if resume else None
        if checkpoint is not None and checkpoint_step(checkpoint) > config.training.steps:
            raise ConfigError(
                f"--resume: training.steps is {config.training.steps}, but the run in {folder} has already made "
                f"{checkpoint_step(checkpoint)}; give at least as many"
            )
        if args.process_index == 0:
            claim_run_folder(config, resume=resume)
            if resume:
                if checkpoint is None:
                    logger.warning("%s holds no complete checkpoint: the run starts from the beginning", folder)
                forget_after(folder, checkpoint)
    return checkpoint


def run(trainer: CalibAdvTrainer, checkpoint: Path | None) -> None:
    """Train to the end; whatever stops it, say where ``resume`` continues."""
    if checkpoint is not None:
        logger.info("Resuming from %s", checkpoint)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.stop.check()
    except (RetrieverUnavailable, EngineFailed, NoSignalError, StopRequested):
        # Raised between batches: weights, optimizer and random state are those of the last completed batch.
        trainer.save_checkpoint()
        logger.error("Stopped at step %d; %s", trainer.state.global_step, where_to_resume(trainer.run_dir))
        raise
    except (KeyboardInterrupt, CalibAdvError):
        logger.error("Stopped at step %d; %s", trainer.state.global_step, where_to_resume(trainer.run_dir))
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise SaveError(explain(error, trainer.run_dir / METRICS)) from error


def where_to_resume(folder: Path) -> str:
    """Where a resumed run would continue, in words."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return "there is no checkpoint yet, so --resume starts from the beginning"
    return f"--resume continues from {checkpoint} (step {checkpoint_step(checkpoint)})"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of transformers, and without warnings that a user of ours can do nothing about."""
    loggers = [logging.getLogger(name) for name in ("transformers.trainer", "trl.trainer.grpo_trainer")]
    for logger_ in loggers:
        logger_.addFilter(is_relevant)
    try:
        with warnings.catch_warnings(), without_progress_bars():
            # TRL 1.16 still uses names that transformers has renamed.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated", category=FutureWarning)
            yield
    finally:
        for logger_ in loggers:
            logger_.removeFilter(is_relevant)


NOISE = (
    # transformers, resuming a model whose head is its embedding: the file holds it once.
    "missing keys in the checkpoint model loaded: ['lm_head.weight']",
    # TRL, for each failed rollout (counted in metrics.jsonl), with all of its untrusted text.
    "All reward functions returned None for the following kwargs",
)


def is_relevant(record: logging.LogRecord) -> bool:
    """False for log messages of the libraries underneath that tell a user of ours nothing."""
    return not any(text in record.getMessage() for text in NOISE)
