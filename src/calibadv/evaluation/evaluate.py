"""`evaluate`: every question exactly once per sample, graded on what the model itself wrote."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calibadv.errors import RetrieverUnavailable
from calibadv.evaluation.metrics import Grade, Summary, grade, summarise
from calibadv.evaluation.settings import EvaluationConfig
from calibadv.questions import check_questions
from calibadv.retrieval.base import Retriever
from calibadv.rollout import Policy, RolloutConfig, rollout
from calibadv.trajectory import Question, Trajectory

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (trajectories finished, trajectories in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Grades, trajectories and means of one evaluation."""

    trajectories: tuple[Trajectory, ...]  # [num_questions * samples], data set by data set, question by question
    grades: tuple[Grade, ...]  # [num_questions * samples], same order
    summaries: tuple[Summary, ...]
    """Per data set, then "all" and "macro" when there are several."""

    @property
    def overall(self) -> Summary:
        """Over all questions."""
        return next((s for s in self.summaries if s.name == "all"), self.summaries[0])


def evaluate(
    questions: Sequence[Question],
    *,
    policy: Policy,
    retriever: Retriever,
    tokenizer: Any,
    config: RolloutConfig,
    samples: int = 1,
    seed: int = 0,
    score: str = "f1",
    progress: Progress | None = None,
) -> EvalResult:
    """Let the policy answer every question ``samples`` times and grade the answers.

    Each data set is played on its own with the same seed, so its figures do not depend on what else is evaluated. When
    the retriever stays away, `RetrieverUnavailable` carries all trajectories that were finished.
    """
    check_questions(questions)
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    trajectories: list[Trajectory] = []
    seconds: dict[str, float] = {}
    total = len(questions) * samples
    for name, asked in by_dataset.items():
        done_before = len(trajectories)
        try:
            result = rollout(
                asked,
                num_rollouts=samples,
                policy=policy,
                retriever=retriever,
                tokenizer=tokenizer,
                config=config,
                seed=seed,
                progress=None if progress is None else _shifted(progress, by=done_before, total=total),
            )
        except RetrieverUnavailable as error:
            error.trajectories = (*trajectories, *error.trajectories)
            raise
        trajectories += result.trajectories
        seconds[name] = result.seconds["total"]
    _assert_each_once(trajectories, questions=questions, samples=samples)
    grades = [grade(trajectory, score=score) for trajectory in trajectories]
    failed = sum(t.failed for t in trajectories)
    if failed:
        logger.warning("%d of %d rollouts failed (search or deadline); they count as unanswered", failed, total)
    return EvalResult(
        trajectories=tuple(trajectories),
        grades=tuple(grades),
        summaries=tuple(summarise(grades, seconds=seconds, seed=seed)),
    )


def rollout_config_of(evaluation: EvaluationConfig, rollout: RolloutConfig) -> RolloutConfig:
    """The rollout settings with the evaluation's temperature."""
    return rollout if evaluation.temperature is None else replace(rollout, temperature=evaluation.temperature)


def _shifted(progress: Progress, *, by: int, total: int) -> Progress:
    return lambda done, _: progress(by + done, total)


def _assert_each_once(trajectories: Sequence[Trajectory], *, questions: Sequence[Question], samples: int) -> None:
    played = Counter((t.question.dataset, t.question.id, t.rollout_index) for t in trajectories)
    wanted = Counter((q.dataset, q.id, sample) for q in questions for sample in range(samples))
    assert played == wanted, "every question must be played exactly once per sample"
