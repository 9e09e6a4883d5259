"""Which questions are asked: the [data] and [reward] sections of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from calibadv.data.questions import check_questions, load_questions
from calibadv.errors import ConfigError
from calibadv.trajectory import Question

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Question files: JSONL (also .gz) or parquet with ``{"id", "question", "golden_answers"}``."""

    root: Path | None = None
    """Where relative paths in data.train, data.test and retrieval.corpus start; not set: the config's folder."""
    train: tuple[Path, ...] = ()
    """Files to train on."""
    test: tuple[Path, ...] = ()
    """Files to evaluate on."""
    limit: int | None = None
    """Train on at most this many questions, drawn with ``seed``; not set: all of them."""
    seed: int = 0
    """Seeds which questions a limit keeps."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit must be >= 1, got {self.limit}; leave it out for all questions")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """The outcome reward: score of the answer times the format flag."""

    function: str = "outcome"
    """"outcome" is score times format; or your own ``(trajectory) -> float`` as "package.module:name"."""
    score: Literal["f1", "em", "cem"] = "f1"
    """Word overlap, exact match or cover exact match with the best golden answer."""


def load_split(config: DataConfig, split: Split, *, limit: int | None = None) -> list[Question]:
    """All questions of ``data.train`` or ``data.test`` in file order, or a seeded draw of ``limit`` of them."""
    files: tuple[Path, ...] = getattr(config, split)
    if not files:
        raise ConfigError(f'data.{split} is empty; name question files, such as data.{split} = ["my.{split}.jsonl"]')
    if len(set(files)) < len(files):
        raise ConfigError(f"data.{split} names a file twice: {', '.join(map(str, files))}")
    questions = [question for file in files for question in load_questions(file)]
    check_questions(questions)  # ids may repeat between two files of one data set
    return draw(questions, limit=limit, seed=config.seed)


def draw(questions: Sequence[Question], *, limit: int | None, seed: int) -> list[Question]:
    """A seeded subset in the original order; everything when the limit allows it."""
    if limit is None or limit >= len(questions):
        return list(questions)
    kept = sorted(Random(seed).sample(range(len(questions)), limit))
    return [questions[index] for index in kept]
