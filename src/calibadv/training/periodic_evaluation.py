"""Evaluations during a training run: on the test questions, before the first step, every few steps, and at the end.

With several processes each plays its share of the questions; the grades are gathered, and the line is that of a single
process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calibadv.data.run_files import BEST, EVALUATIONS, read_metrics
from calibadv.evaluation.config import EvaluationConfig
from calibadv.evaluation.evaluate import EvalResult, evaluate, rollout_config_of
from calibadv.evaluation.grade import Grade
from calibadv.evaluation.statistics import summarise
from calibadv.io.files import append_json_line
from calibadv.retrieval.base import Retriever
from calibadv.rewards.reward import Reward
from calibadv.rollout import RolloutConfig
from calibadv.training.config import TrainingConfig
from calibadv.training.overrides.checkpoint_saving import save_policy
from calibadv.training.process_group import together
from calibadv.training.signals import StopRequested
from calibadv.training.trainer import CalibAdvTrainer
from calibadv.trajectory import Question

Listener = Callable[[dict[str, Any]], None]


class PeriodicEvaluation(TrainerCallback):
    """Evaluates on the test questions before the first step, every ``eval_every`` steps, and at the end."""

    def __init__(
        self,
        trainer: CalibAdvTrainer,
        *,
        test: Sequence[Question],
        settings: TrainingConfig,
        evaluation: EvaluationConfig,
        rollout: RolloutConfig,
        score: str,
        retriever: Retriever,
        reward: Reward,
        listeners: Sequence[Listener],
    ) -> None:
        self.trainer = trainer
        self.test = test
        self.settings = settings
        self.samples = evaluation.samples
        self.rollout = rollout_config_of(evaluation, rollout)
        self.score = score
        self.retriever = retriever
        self.reward = reward
        self.listeners = listeners

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The base policy, and an evaluation that a signal cut short."""
        due = state.global_step % self.settings.eval_every == 0
        done = {line["step"] for line in self.earlier()}
        if due and state.global_step not in done and state.global_step < state.max_steps:
            self.evaluate(step=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The policy as trained so far."""
        if state.global_step % self.settings.eval_every == 0 or state.global_step == state.max_steps:
            try:
                self.evaluate(step=state.global_step)
            except StopRequested:  # the batch is complete and can be saved; a resumed run evaluates it
                control.should_save = True
                control.should_training_stop = True

    def earlier(self) -> list[dict[str, Any]]:
        """The evaluations so far."""
        return read_metrics(self.trainer.run_dir / EVALUATIONS)

    def evaluate(self, *, step: int) -> None:
        """Write one line to ``eval.jsonl``, and the weights to ``best/`` if no evaluation before was as good."""
        with self.trainer.clock.lap("eval"), self.trainer.accelerator.autocast(), self.trainer.stop.interruptible():
            result = self.play()
        line = eval_line(result, step=step)
        if self.is_best(line):
            record = {"step": step, "metric": self.metric, "value": line[self.metric]}
            with self.trainer.clock.lap("storage"):
                save_policy(
                    self.trainer.policy_model,
                    self.trainer.processing_class,
                    self.trainer.run_dir / BEST,
                    record=record,
                    writes=self.trainer.is_world_process_zero(),
                )
        if self.trainer.is_world_process_zero():
            append_json_line(self.trainer.run_dir / EVALUATIONS, line)
            for listener in self.listeners:
                listener(line)

    def play(self) -> EvalResult:
        """Evaluate the current weights on all questions; this process plays its share. No trajectories come back."""
        num_processes = self.trainer.accelerator.num_processes
        result = None
        with together(num_processes=num_processes):
            result = evaluate(
                share_of(self.test, process=self.trainer.accelerator.process_index, num_processes=num_processes),
                policy=self.trainer.policy,
                retriever=self.retriever,
                tokenizer=self.trainer.processing_class,
                config=self.rollout,
                samples=self.samples,
                seed=self.settings.seed,
                score=self.score,
                reward=self.reward,
            )
        assert result is not None
        grades, seconds = gathered(result, questions=self.test, num_processes=num_processes)
        summaries = summarise(grades, seconds=seconds, seed=self.settings.seed)
        return EvalResult(trajectories=(), grades=tuple(grades), summaries=tuple(summaries))

    @property
    def metric(self) -> str:
        """What decides which evaluation is the best."""
        return self.settings.best_metric

    def is_best(self, line: dict[str, Any]) -> bool:
        """Whether these weights go into ``best/``. Step 0 only sets the bar: its weights are those of ``model.path``.

        The main process decides for all: it alone writes the file that is compared with.
        """
        if self.metric == "none" or line["step"] == 0:
            return False
        best = [line[self.metric] > max((before[self.metric] for before in self.earlier()), default=-math.inf)]
        return bool(broadcast_object_list(best)[0])


def share_of(questions: Sequence[Question], *, process: int, num_processes: int) -> list[Question]:
    """What one process plays: every n-th question of each data set.

    Of a data set that is too small for all, the others play the first question too: engines that work together over
    processes need each of them to play every data set.
    """
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    return [q for asked in by_dataset.values() for q in asked[process::num_processes] or asked[:1]]


def gathered(
    result: EvalResult, *, questions: Sequence[Question], num_processes: int
) -> tuple[list[Grade], dict[str, float]]:
    """The grades of all processes in the order of a single one, and each data set's seconds in the slowest."""
    seconds = {summary.name: summary.seconds for summary in result.summaries}
    if num_processes == 1:
        return list(result.grades), seconds
    datasets = list(dict.fromkeys(question.dataset for question in questions))
    place = {(q.dataset, q.id): (datasets.index(q.dataset), n) for n, q in enumerate(questions)}
    played = {(place[g.dataset, g.question_id], g.sample): g for g in gather_object(list(result.grades))}
    for theirs in gather_object([seconds]):
        seconds = {name: max(value, seconds.get(name, 0.0)) for name, value in theirs.items()}
    return [played[key] for key in sorted(played)], seconds


def eval_line(result: EvalResult, *, step: int) -> dict[str, Any]:
    """One evaluation: the mean of every metric; of F1 also standard error, 95 % interval, and each question's."""
    overall = result.overall
    f1 = overall.estimates["f1"]
    return {
        "step": step,
        "questions": overall.num_questions,
        **{name: estimate.mean for name, estimate in overall.estimates.items()},
        "f1_se": f1.standard_error,
        "f1_low": f1.low,
        "f1_high": f1.high,
        "f1_by_question": f1_by_question(result),
        "seconds": overall.seconds,
    }


def f1_by_question(result: EvalResult) -> list[float]:
    """F1 of each question, the mean over its samples, in the order of the test set: for paired comparisons of runs."""
    scores: dict[tuple[str, str], list[float]] = {}
    for grade in result.grades:
        scores.setdefault((grade.dataset, grade.question_id), []).append(grade.values["f1"])
    return [round(math.fsum(values) / len(values), 4) for values in scores.values()]
