"""Which questions are asked: the [data] section of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Literal, TypeVar

from calibadv.config_class import PositiveFloat, PositiveInt, Remedy, config_class
from calibadv.data.questions import check_questions, load_questions
from calibadv.errors import ConfigError
from calibadv.trajectory import Question

T = TypeVar("T")
Split = Literal["train", "test"]


@config_class("data")
class DataConfig:
    """Question files: JSONL (also .gz) or parquet with ``{"id", "question", "golden_answers"}``."""

    root: Path | None = None
    """Where relative paths in data.train, data.test and retrieval.corpus start; not set: the config's folder."""
    train: tuple[Path, ...] = ()
    """Files to train on."""
    train_weights: tuple[PositiveFloat, ...] = ()
    """Weight of each file of ``train``: every batch holds questions of the files in this proportion, whatever their
    sizes. Empty: all questions alike."""
    test: tuple[Path, ...] = ()
    """Files to evaluate on."""
    limit: Annotated[PositiveInt | None, Remedy("leave it out for all questions")] = None
    """Train on at most this many questions, drawn with ``seed``; not set: all of them."""
    seed: int = 0
    """Seeds which questions a limit keeps."""

    def __post_init__(self) -> None:
        if self.train_weights and len(self.train_weights) != len(self.train):
            raise ConfigError(
                f"data.train_weights must have one weight for each of the {len(self.train)} files of data.train, got "
                f"{len(self.train_weights)}"
            )


def load_split(config: DataConfig, split: Split, *, limit: int | None = None) -> list[Question]:
    """All questions of ``data.train`` or ``data.test`` in file order, or a seeded draw of ``limit`` of them."""
    return [question for part in load_files(config, split, limit=limit) for question in part]


def load_files(config: DataConfig, split: Split, *, limit: int | None = None) -> list[list[Question]]:
    """As `load_split`, the questions of each file apart."""
    files: tuple[Path, ...] = getattr(config, split)
    if not files:
        raise ConfigError(f'data.{split} is empty; name question files, such as data.{split} = ["my.{split}.jsonl"]')
    if len(set(files)) < len(files):
        raise ConfigError(f"data.{split} names a file twice: {', '.join(map(str, files))}")
    questions = [(number, question) for number, file in enumerate(files) for question in load_questions(file)]
    check_questions([question for _, question in questions])  # ids may repeat between two files of one data set
    kept = draw(questions, limit=limit, seed=config.seed)
    return [[question for of, question in kept if of == number] for number in range(len(files))]


def draw(questions: Sequence[T], *, limit: int | None, seed: int | str) -> list[T]:
    """A seeded subset in the original order; everything when the limit allows it."""
    if limit is None or limit >= len(questions):
        return list(questions)
    kept = sorted(Random(seed).sample(range(len(questions)), limit))
    return [questions[index] for index in kept]


def draw_per_dataset(questions: Sequence[Question], *, limit: int | None, seed: int) -> list[Question]:
    """At most ``limit`` questions of each data set, seeded, in the original order; all of them without a limit.

    Which ones of a data set are kept does not depend on the others.

    >>> many = [Question(id=str(n), text="?", golden_answers=("a",), dataset="nq" if n else "rare") for n in range(9)]
    >>> [question.dataset for question in draw_per_dataset(many, limit=2, seed=0)]
    ['rare', 'nq', 'nq']
    """
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    kept = {
        (question.dataset, question.id)
        for name, asked in by_dataset.items()
        for question in draw(asked, limit=limit, seed=f"{name}-{seed}")
    }
    return [question for question in questions if (question.dataset, question.id) in kept]
