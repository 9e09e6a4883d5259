"""`evaluate`: every question exactly once per sample, graded on what the model itself wrote."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from calibadv.data.questions import check_questions
from calibadv.errors import PolicyError, RetrieverUnavailable
from calibadv.evaluation.config import EvaluationConfig
from calibadv.evaluation.grade import Grade, grade
from calibadv.evaluation.journal import Journal, key_of
from calibadv.evaluation.statistics import Summary, check_names, summarise
from calibadv.retrieval.base import Retriever
from calibadv.rewards.reward import Reward
from calibadv.rollout import Policy, RolloutConfig, RolloutResult, rollout
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

    def regraded(self, grades: Sequence[Grade], *, seed: int = 0) -> EvalResult:
        """The same rollouts with other grades, one for each."""
        seconds = {summary.name: summary.seconds for summary in self.summaries}
        return replace(self, grades=tuple(grades), summaries=tuple(summarise(grades, seconds=seconds, seed=seed)))


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
    reward: Reward | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> EvalResult:
    """Let the policy answer every question ``samples`` times and grade the answers.

    Each data set is played on its own with the same seed, so its figures do not depend on what else is evaluated. When
    the retriever is unreachable, `RetrieverUnavailable` carries all trajectories that were finished. With a ``journal``
    they are on disk as they finish, and what it holds already is not played again, except for rollouts that failed.
    """
    check_questions(questions)
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    check_names(by_dataset)
    play = partial(
        rollout, num_rollouts=samples, policy=policy, retriever=retriever, tokenizer=tokenizer, config=config, seed=seed
    )
    trajectories: list[Trajectory] = []
    seconds: dict[str, float] = {}
    for name, asked in by_dataset.items():
        missing = [q for q in asked if journal is None or not _is_finished(q, samples=samples, journal=journal)]
        show = None
        if progress is not None:
            done_before = len(trajectories) + (len(asked) - len(missing)) * samples
            show = _shifted(progress, by=done_before, total=len(questions) * samples)
            show(0, len(missing) * samples)
        try:
            played, seconds[name] = _play(play, missing, name=name, show=show, journal=journal)
        except (RetrieverUnavailable, PolicyError) as error:
            error.trajectories = (*trajectories, *error.trajectories)
            raise
        if journal is not None:
            played = [journal.finished[key] for question in asked for key in _keys(question, samples)]
        trajectories += played
    _assert_each_once(trajectories, questions=questions, samples=samples)
    return grade_all(trajectories, seconds=seconds, seed=seed, score=score, reward=reward, journal=journal)


def _play(
    play: Callable[..., RolloutResult],
    missing: Sequence[Question],
    *,
    name: str,
    show: Progress | None,
    journal: Journal | None,
) -> tuple[list[Trajectory], float]:
    """Play what is missing of a data set; its trajectories and the seconds they took, those of earlier sessions too."""
    if journal is not None:
        journal.start(name)
    result = None
    if missing:
        result = play(missing, progress=show, keep=None if journal is None else journal.add)
    seconds = 0.0 if result is None else result.seconds["total"]
    return list(result.trajectories if result is not None else ()), journal.seconds(name) if journal else seconds


def grade_all(
    trajectories: Sequence[Trajectory],
    *,
    seconds: dict[str, float],
    seed: int,
    score: str,
    reward: Reward | None = None,
    journal: Journal | None = None,
) -> EvalResult:
    """Grades and means of trajectories."""
    latency_s = {} if journal is None else journal.latency_s
    grades = [grade(t, score=score, reward=reward, latency_s=latency_s.get(key_of(t))) for t in trajectories]
    failed = sum(t.failed for t in trajectories)
    if failed:
        logger.warning(
            "%d of %d rollouts failed (search or deadline); they count as unanswered", failed, len(trajectories)
        )
    return EvalResult(
        trajectories=tuple(trajectories),
        grades=tuple(grades),
        summaries=tuple(summarise(grades, seconds=seconds, seed=seed)),
    )


def rollout_config_of(evaluation: EvaluationConfig, rollout: RolloutConfig) -> RolloutConfig:
    """The rollout settings with the evaluation's temperature."""
    return rollout if evaluation.temperature is None else replace(rollout, temperature=evaluation.temperature)


def _keys(question: Question, samples: int) -> list[tuple[str, str, int]]:
    return [(question.dataset, question.id, sample) for sample in range(samples)]


def _is_finished(question: Question, *, samples: int, journal: Journal) -> bool:
    """Whether every sample was finished in an earlier session, and none of its searches failed."""
    kept = (journal.finished.get(key) for key in _keys(question, samples))
    return all(trajectory is not None and not trajectory.failed for trajectory in kept)


def _shifted(progress: Progress, *, by: int, total: int) -> Progress:
    return lambda done, _: progress(by + done, total)


def _assert_each_once(trajectories: Sequence[Trajectory], *, questions: Sequence[Question], samples: int) -> None:
    played = Counter((t.question.dataset, t.question.id, t.rollout_index) for t in trajectories)
    wanted = Counter((q.dataset, q.id, sample) for q in questions for sample in range(samples))
    assert played == wanted, "every question must be played exactly once per sample"
