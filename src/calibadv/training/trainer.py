"""`CalibAdvTrainer`: TRL's GRPO trainer with search rollouts and calibrated advantages.

Its overrides stand each alone in a file of `calibadv.training.overrides`: `turn_advantages` (advantages of shape
(B, T)), `question_sampler` (the order of the questions, made as it is needed), `micro_batches` (mini-batches by
rollouts, micro-batches by tokens), `token_logprobs` (only trained tokens are scored), `lr_schedule` (a rate that
changes once a batch), `reference_logprobs` (the reference policy of the KL term).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from calibadv.advantage import Estimator
from calibadv.data.question_order import GivenOrder, Order
from calibadv.data.run_files import METRICS, checkpoint_folder, trajectory_file
from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.errors import ConfigError
from calibadv.models.quantization import keep_adapter_in_float32
from calibadv.retrieval.base import Retriever
from calibadv.rewards.reward import Reward
from calibadv.rollout import HFTokenizer, Policy, RolloutResult
from calibadv.rollout.tokenizer import eos_ids_of
from calibadv.training.callbacks import BatchMetrics, SkipNonFiniteUpdate, WhenWeightsChange
from calibadv.training.checkpoint_files import problem_of
from calibadv.training.credit import BatchCredit, Outcome
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.no_signal import NoSignalError, no_signal_message
from calibadv.training.overrides.checkpoint_saving import SafeCheckpoints
from calibadv.training.overrides.colocated_vllm import ColocatedGeneration, colocated, colocated_policy
from calibadv.training.overrides.ddp import GradientsInBuckets
from calibadv.training.overrides.fsdp import WholeCheckpoints
from calibadv.training.overrides.lr_schedule import HeldLearningRate
from calibadv.training.overrides.micro_batches import LeanMicroBatches
from calibadv.training.overrides.question_sampler import LazyQuestions
from calibadv.training.overrides.reference_logprobs import (
    ReferenceLogprobs,
    forget_fresh_reference,
    reference_given,
)
from calibadv.training.overrides.token_logprobs import TrainedTokenLogprobs, add_token_head
from calibadv.training.overrides.turn_advantages import CalibratedAdvantages
from calibadv.training.rollout_func import RolloutFunc, handed_over_reward, make_rollout_func
from calibadv.training.signals import StopAtBatchEnd, StopSignals
from calibadv.training.timers import Clock
from calibadv.training.trl_batch import QuestionOrder, question_rows
from calibadv.trajectory import Question, Trajectory

logger = logging.getLogger(__name__)


class CalibAdvTrainer(
    ReferenceLogprobs,
    CalibratedAdvantages,
    LazyQuestions,
    LeanMicroBatches,
    TrainedTokenLogprobs,
    HeldLearningRate,
    SafeCheckpoints,
    WholeCheckpoints,
    GradientsInBuckets,
):
    """Train a policy on questions with a retriever.

    ``policy`` makes the policy that plays the rollouts from the model and tokenizer; by default `TransformersPolicy`,
    or with ``args.use_vllm`` vLLM in this process (`calibadv.training.overrides.colocated_vllm`).
    ``reward`` takes the place of the outcome reward, ``estimator`` that of ``calibration.estimator``.
    ``order`` says in which order questions are asked; by default in shuffled passes.
    ``reference`` is what the KL term of ``args.beta`` compares with; by default the model as it is given.
    ``stop`` ends the run early when a signal comes (`calibadv.training.signals`).
    Writes ``metrics.jsonl`` and ``trajectories/step-*.jsonl.gz`` into ``args.output_dir``, next to TRL's checkpoints.
    """

    vllm_generation: ColocatedGeneration

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        args: CalibAdvConfig,
        train_questions: Sequence[Question],
        retriever: Retriever,
        processing_class: PreTrainedTokenizerBase,
        policy: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Policy] | None = None,
        reward: Reward | None = None,
        estimator: Estimator | None = None,
        order: Order | None = None,
        reference: PreTrainedModel | None = None,
        stop: StopSignals | None = None,
        **kwargs: Any,
    ) -> None:
        self.estimator = estimator
        self.updates_per_batch = args.updates_per_batch
        if args.max_steps < 1 or args.max_steps % self.updates_per_batch:
            raise ConfigError(
                f"training.steps must be a positive multiple of the {self.updates_per_batch} optimizer steps made from "
                f"each batch (mini_batches x epochs), got {args.max_steps}"
            )
        self.question_order = questions_in_order(train_questions, args, order)
        self.clock = Clock()
        self.stop = stop or StopSignals()
        if policy is not None and args.use_vllm:
            raise ConfigError("use_vllm is on, but there is a policy to play the rollouts: leave one of them out")
        self._make_policy = policy or (self._colocated_policy if args.use_vllm else transformers_policy)
        self._policy: Policy | None = None
        tokenizer = HFTokenizer(processing_class)
        rollout_func = make_rollout_func(
            train_questions,
            policy=self._current_policy,
            retriever=retriever,
            tokenizer=tokenizer,
            config=args.rollout_config,
            filler_id=tokenizer.pad_id,
            score=args.reward_score,
            reward=reward,
            on_result=self._count_rollout_time,
        )
        engine = colocated(args.vllm_arguments) if args.use_vllm else nullcontext()
        with engine, warnings.catch_warnings(), reference_given(model, reference):
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")  # TRL marks it experimental
            super().__init__(
                model,
                reward_funcs=handed_over_reward,
                args=args,
                train_dataset=Dataset.from_list(question_rows(train_questions, order=range(len(train_questions)))),
                processing_class=processing_class,
                rollout_func=self._interruptible(rollout_func),
                **kwargs,
            )
        # In TRL's terms an iteration is an update: after this many come new rollouts.
        self.num_iterations = self.updates_per_batch
        has_bonus = args.entropy_coef != 0 or args.use_adaptive_entropy
        add_token_head(self.policy_model, temperature=self.temperature, entropy_gradient=has_bonus)
        if self.ref_model is not None:
            add_token_head(self.accelerator.unwrap_model(self.ref_model), temperature=self.temperature)
        forget_fresh_reference(self.policy_model)
        keep_adapter_in_float32(self.policy_model)
        assert args.output_dir is not None  # TRL's __post_init__ fills it in
        self.run_dir = Path(args.output_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.skip_non_finite = SkipNonFiniteUpdate(
            updates_per_batch=self.updates_per_batch, max_batches=args.max_batches_without_signal
        )
        self.batch_metrics = BatchMetrics(
            self.run_dir / METRICS, updates_per_batch=self.updates_per_batch, finish=self._finish_batch
        )
        self.add_callback(self.skip_non_finite)
        self.add_callback(self.batch_metrics)
        self.add_callback(
            StopAtBatchEnd(
                self.stop, updates_per_batch=self.updates_per_batch, num_processes=self.accelerator.num_processes
            )
        )
        if args.use_vllm:
            set_seed(args.seed, device_specific=True)  # vLLM has set its own
            self.vllm_generation.lap = self.clock.lap
            self.add_callback(WhenWeightsChange(self.vllm_generation.weights_changed))
            self.batch_metrics.listeners.append(self._watch_gap)
        self._batches_without_signal = 0
        self._skipped_before = 0

    @property
    def policy(self) -> Policy:
        """The policy over the current weights; also for evaluation."""
        if self._policy is None:
            self._policy = self._make_policy(self.policy_model, self._tokenizer)
        return self._policy

    def _colocated_policy(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
        eos_ids = eos_ids_of(getattr(model, "generation_config", None))
        return colocated_policy(self.vllm_generation, HFTokenizer(tokenizer), eos_ids=eos_ids)

    def _watch_gap(self, line: dict[str, Any]) -> None:
        gap = line.get("logprob_gap", 0.0)
        if gap > self.args.vllm_gap_alarm:
            logger.warning("%s", gap_message(gap, alarm=self.args.vllm_gap_alarm))

    def _interruptible(self, rollout_func: RolloutFunc) -> RolloutFunc:
        def play(prompts: list[Any], trainer: Any) -> dict[str, Any]:
            with self.stop.interruptible():
                return rollout_func(prompts, trainer)

        return play

    def _current_policy(self) -> Policy:
        return self.policy

    def _count_rollout_time(self, result: RolloutResult) -> None:
        for lap, name in (("generate", "generate"), ("search", "search_wait"), ("scheduler", "scheduler")):
            self.clock.add(lap, result.seconds[name])

    def batch_credited(
        self, trajectories: Sequence[Trajectory], outcomes: Sequence[Outcome], credit: BatchCredit, rows: slice
    ) -> None:
        """Keep the batch's metrics and trajectories; say so when there is nothing to learn."""
        step = self.state.global_step + self.updates_per_batch
        self.batch_metrics.pending = credit.metrics
        for name, value in credit.metrics.items():
            if isinstance(value, (int, float)):
                self._metrics["train"][f"calibadv/{name}"].append(float(value))
        rank = None if self.accelerator.num_processes == 1 else self.accelerator.process_index
        records = [
            Record(trajectory=t, credit=credit.of(rows.start + n, o), step=step)
            for n, (t, o) in enumerate(zip(trajectories, outcomes, strict=True))
        ]
        with self.clock.lap("storage"):
            write_trajectories(trajectory_file(self.run_dir, step, rank=rank), records)
        self._watch_signal(credit)

    def _watch_signal(self, credit: BatchCredit) -> None:
        if credit.before_NK.any():
            self._batches_without_signal = 0
            return
        self._batches_without_signal += 1
        message = no_signal_message(credit.metrics)
        logger.warning("%s", message)
        if self._batches_without_signal >= self.args.max_batches_without_signal:
            raise NoSignalError(
                f"stopped after {self._batches_without_signal} batches in a row without a signal. {message}"
            )

    def _finish_batch(self) -> dict[str, Any]:
        skipped = self.skip_non_finite.skipped - self._skipped_before
        self._skipped_before += skipped
        seconds = self.clock.collect()
        known = sum(value for name, value in seconds.items() if name != "step")
        seconds["other"] = max(0.0, seconds["step"] - known)
        engine = {"weight_syncs": self.vllm_generation.count_syncs()} if self.args.use_vllm else {}
        times = {f"seconds_{name}": round(value, 4) for name, value in seconds.items()}
        return {"skipped_updates": skipped} | engine | times

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: TRL would put a README for the model hub among the records of the run."""

    def close(self) -> None:
        """Give back what an engine beside the model holds. The trainer cannot be used afterwards."""
        if self.args.use_vllm:
            self.vllm_generation.close()

    def save_checkpoint(self) -> None:
        """Save what a resumed run needs, unless it is there already. Only between batches."""
        folder = checkpoint_folder(self.run_dir, self.state.global_step)
        if self.state.global_step and (not folder.exists() or problem_of(folder)):
            self._save_checkpoint(self.model, trial=None)  # type: ignore[no-untyped-call]  # TRL leaves it unannotated

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One update, with the time of forward and backward passes counted apart from generation."""
        model.train()  # a loaded model comes in evaluation mode, in which TRL would not split the batch
        passes = self._prepare_inputs(inputs)
        with self.clock.lap("update"):
            return super().training_step(model, passes, num_items_in_batch)


def questions_in_order(questions: Sequence[Question], args: CalibAdvConfig, order: Order | None) -> Collection[int]:
    """The indices of the questions of a whole run, made as they are needed."""
    num_batches = args.max_steps // args.updates_per_batch
    shape = {"num_batches": num_batches, "questions_per_batch": args.questions_per_batch, "seed": args.seed}
    if order is None:
        return QuestionOrder(num_questions=len(questions), **shape)
    given = GivenOrder(order=order, questions=questions, **shape)
    given.check_first_batch()
    return given


def transformers_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """The default policy: the model itself, with its key-value cache kept across turns."""
    from calibadv.rollout.policies.transformers import TransformersPolicy

    return TransformersPolicy(model, tokenizer)


def gap_message(gap: float, *, alarm: float) -> str:
    """In plain words, what is wrong when the engine and the trainer see different probabilities."""
    return (
        f"The log-probabilities of vLLM and of the trainer differ by {gap:.3g} in the mean, more than "
        f"training.engine_gap_alarm ({alarm:g}): the rollouts are not those of the model being trained. Rounding in "
        'half precision gives about 0.01; for more, compare with model.dtype = "float32", leave quantization out of '
        'model.engine_args, update vLLM, or train with model.engine = "transformers"'
    )
