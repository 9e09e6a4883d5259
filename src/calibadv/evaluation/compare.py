"""`compare`: two evaluations of the same questions, paired question by question.

The difference of each question is one observation; the bootstrap draws questions. Two evaluations that asked different
questions are not compared, unless only what they share is asked for.

Shape suffixes: Q = questions, M = metrics, B = bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.evaluation.evaluate import grade_all
from calibadv.evaluation.folder import FINISHED, QUESTIONS, question_lines
from calibadv.evaluation.grade import METRICS, OPTIONAL
from calibadv.evaluation.journal import key_of
from calibadv.evaluation.statistics import check_names, draw_means
from calibadv.io.files import read_json_lines

Key = tuple[str, str]
"""Data set and question id."""
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question in one evaluation."""

    question: str
    golden_answers: tuple[str, ...]
    answers: tuple[str | None, ...]  # [num_samples]
    values: Mapping[str, float]
    """Metric -> mean over the samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One metric of B minus that of A, over paired questions."""

    before: float
    after: float
    mean: float
    low: float
    """2.5 % quantile of the paired bootstrap."""
    high: float
    """97.5 % quantile."""
    p_value: float
    """Two-sided: twice the share of draws on the other side of zero; at least 1 / draws."""
    wins: int
    """Questions where B is better."""
    losses: int
    ties: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A question on which the two differ."""

    dataset: str
    id: str
    question: str
    golden_answers: tuple[str, ...]
    before: float
    after: float
    answers_before: tuple[str | None, ...]
    answers_after: tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All data sets of two evaluations, compared."""

    metric: str
    """Which one decides about wins, losses and changed questions."""
    num_questions: Mapping[str, int]
    """Per data set, then "all"."""
    differences: Mapping[str, Mapping[str, Difference]]
    """Data set (then "all" when there are several) -> metric -> difference."""
    changed: tuple[Changed, ...]
    """The largest losses first, the largest gains last."""
    only_before: int
    """Questions that only A was asked (left out)."""
    only_after: int


def read_evaluation(path: Path) -> dict[Key, Answered]:
    """The questions of an evaluation's folder (also of one that is not finished), or of its ``questions.jsonl``."""
    if path.is_dir() and not (path / QUESTIONS).is_file() and (path / FINISHED).is_file():
        records = read_trajectories(path / FINISHED)
        finished = {key_of(record.trajectory): record.trajectory for record in records}  # the last of each counts
        if not finished:
            raise DataError(f"{path}: no question of that evaluation is finished yet; continue it with calibadv eval")
        trajectories = list(finished.values())
        seconds = dict.fromkeys((t.question.dataset for t in trajectories), 0.0)
        return _gather(question_lines(grade_all(trajectories, seconds=seconds, seed=0, score="f1")), path=path)
    file = path / QUESTIONS if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: no {QUESTIONS} there; name the --out folder of calibadv eval or calibadv eval score")
    return _gather([line for _, line in read_json_lines(file)], path=file)


def compare(
    before: Mapping[Key, Answered],
    after: Mapping[Key, Answered],
    *,
    metric: str = "f1",
    common: bool = False,
    seed: int = 0,
) -> Comparison:
    """B (``after``) against A (``before``). With ``common`` questions that only one of them was asked are left out."""
    shared = [key for key in before if key in after]
    _check_same_questions(before, after, shared=shared, common=common)
    names = [m for m in (*METRICS, *OPTIONAL) if all(m in e[k].values for e in (before, after) for k in shared)]
    if metric not in names:
        raise ConfigError(f"--metric must be one that both evaluations have ({', '.join(names)}), got {metric!r}")
    datasets: dict[str, list[Key]] = {}
    for key in shared:
        datasets.setdefault(key[0], []).append(key)
    check_names(datasets)
    groups = dict(datasets) if len(datasets) < 2 else {**datasets, "all": shared}
    changed = [
        Changed(
            dataset=key[0],
            id=key[1],
            question=before[key].question,
            golden_answers=before[key].golden_answers,
            before=before[key].values[metric],
            after=after[key].values[metric],
            answers_before=before[key].answers,
            answers_after=after[key].answers,
        )
        for key in shared
        if before[key].values[metric] != after[key].values[metric]
    ]
    return Comparison(
        metric=metric,
        num_questions={name: len(keys) for name, keys in groups.items()},
        differences={
            name: _differences(
                [before[key].values for key in keys], [after[key].values for key in keys], names, name=name, seed=seed
            )
            for name, keys in groups.items()
        },
        changed=tuple(sorted(changed, key=lambda c: c.after - c.before)),
        only_before=len(before) - len(shared),
        only_after=len(after) - len(shared),
    )


def _differences(
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    names: Sequence[str],
    *,
    name: str,
    seed: int,
) -> dict[str, Difference]:
    before_QM = np.array([[values[metric] for metric in names] for values in before])
    after_QM = np.array([[values[metric] for metric in names] for values in after])
    difference_QM = after_QM - before_QM
    draws_BM = draw_means(difference_QM, name=name, seed=seed)
    low_M, high_M = np.quantile(draws_BM, [0.025, 0.975], axis=0)
    least = 1 / len(draws_BM)
    result = {}
    for m, metric in enumerate(names):
        column = difference_QM[:, m]
        tail = min(float((draws_BM[:, m] <= 0).mean()), float((draws_BM[:, m] >= 0).mean()))
        result[metric] = Difference(
            before=float(before_QM[:, m].mean()),
            after=float(after_QM[:, m].mean()),
            mean=float(column.mean()),
            low=float(low_M[m]),
            high=float(high_M[m]),
            p_value=min(1.0, max(2 * tail, least)),
            wins=int((column > 0).sum()),
            losses=int((column < 0).sum()),
            ties=int((column == 0).sum()),
        )
    return result


def _check_same_questions(
    before: Mapping[Key, Answered], after: Mapping[Key, Answered], *, shared: Sequence[Key], common: bool
) -> None:
    if not shared:
        raise DataError(
            f"the two evaluations share no question: A has {len(before):,} ({_datasets(before)}), B {len(after):,} "
            f"({_datasets(after)})"
        )
    for key in shared:
        a, b = before[key], after[key]
        if a.question != b.question or a.golden_answers != b.golden_answers:
            what = "question" if a.question != b.question else "golden answers"
            raise DataError(f"{key[0]}/{key[1]}: the {what} differ between A and B; these are not the same data")
    if len(shared) == len(before) == len(after) or common:
        return
    only = [("A", [k for k in before if k not in after]), ("B", [k for k in after if k not in before])]
    what = "; ".join(
        f"{len(keys):,} only in {name} (such as {', '.join('/'.join(k) for k in keys[:_NAMED])})"
        for name, keys in only
        if keys
    )
    raise DataError(
        f"the two evaluations asked different questions: {len(shared):,} are in both, {what}. --common compares what "
        "is in both"
    )


def _datasets(questions: Mapping[Key, Answered]) -> str:
    return ", ".join(dict.fromkeys(dataset for dataset, _ in questions)) or "none"


def _gather(lines: Sequence[Mapping[str, Any]], *, path: Path) -> dict[Key, Answered]:
    """Samples of a question together."""
    rows: dict[Key, list[Mapping[str, Any]]] = {}
    runs = {line.get("run") for line in lines}
    if len(runs) > 1:
        raise DataError(
            f"{path} holds {len(runs)} runs ({', '.join(map(str, sorted(map(str, runs))[:_NAMED]))}, ...); score one "
            "of them alone with --run"
        )
    try:
        for line in lines:
            rows.setdefault((line["dataset"], line["id"]), []).append(line)
        return {
            key: Answered(
                question=samples[0]["question"],
                golden_answers=tuple(samples[0]["golden_answers"]),
                answers=tuple(sample["answer"] for sample in samples),
                values={
                    metric: math.fsum(sample[metric] for sample in samples) / len(samples)
                    for metric in (*METRICS, *OPTIONAL)
                    if all(metric in sample for sample in samples)
                },
            )
            for key, samples in rows.items()
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not the questions of an evaluation ({type(error).__name__}: {error})") from error
