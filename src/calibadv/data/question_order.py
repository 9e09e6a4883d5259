"""The door for the order of questions: ``training.order``, and the mixture of files by ``data.train_weights``.

An order is used lazily, as far as the run goes, and made again from its beginning when a run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Protocol

from calibadv.errors import ConfigError
from calibadv.registry import call, check_call, import_object, name_of
from calibadv.trajectory import Question

SETTING = "training.order"
SHUFFLED = "shuffled"
WANTED = "order(questions, questions_per_batch=..., seed=...) -> indices of questions"


class Order(Protocol):
    """Says in which order questions are asked: indices into ``questions``, batch after batch, at least for the run.

    It may be a generator without an end. No index may come twice within ``questions_per_batch`` of a batch. The same
    arguments must give the same order: that makes a resumed run the same as an uninterrupted one.
    """

    def __call__(self, questions: Sequence[Question], /, *, questions_per_batch: int, seed: int) -> Iterable[int]: ...


def find_order(named: str | Order) -> Order | None:
    """The order of an import path, or itself; None for the built-in one, "shuffled".

    Raises:
        ConfigError: There is none of that name, or it cannot be called as an order is.
    """
    if named == SHUFFLED:
        return None
    if isinstance(named, str) and ":" not in named:
        raise ConfigError(f'{SETTING} must be one of {SHUFFLED}, "package.module:name", got {named!r}')
    found: Order = import_object(named, setting=SETTING) if isinstance(named, str) else named
    check_call(found, "questions", setting=SETTING, wanted=WANTED, keywords=("questions_per_batch", "seed"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenOrder:
    """The indices of a run in somebody's order, checked as they come; each iteration begins again."""

    order: Order
    questions: Sequence[Question]
    num_batches: int
    questions_per_batch: int
    seed: int

    def __len__(self) -> int:
        return self.num_batches * self.questions_per_batch

    def __contains__(self, index: object) -> bool:
        return any(index == asked for asked in self)

    def __iter__(self) -> Iterator[int]:
        given: Iterable[int] = call(
            self.order, self.questions, setting=SETTING, questions_per_batch=self.questions_per_batch, seed=self.seed
        )
        indices = call(iter, given, setting=SETTING)
        for batch in range(self.num_batches):
            yield from self._checked(call(self._next_batch, indices, setting=SETTING), batch=batch)

    def check_first_batch(self) -> None:
        """Refuse an order that is wrong from the beginning, before anything is played."""
        for _ in islice(self, self.questions_per_batch):
            pass

    def _next_batch(self, indices: Iterator[int]) -> list[int]:
        return list(islice(indices, self.questions_per_batch))

    def _checked(self, asked: list[int], *, batch: int) -> list[int]:
        who = f"{SETTING} {name_of(self.order)!r}"
        if len(asked) < self.questions_per_batch:
            raise ConfigError(
                f"{who} ended after {batch * self.questions_per_batch + len(asked)} indices, but the run asks "
                f"{len(self)} questions: repeat them, or lower training.steps"
            )
        for index in asked:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(self.questions):
                raise ConfigError(f"{who} gave {index!r}, which is no index of the {len(self.questions)} questions")
        if len(set(asked)) < len(asked):
            twice = next(index for index in asked if asked.count(index) > 1)
            raise ConfigError(
                f"{who} gave the index {twice} twice in batch {batch + 1}: advantages compare the rollouts of one "
                "question in a batch, so ask it once"
            )
        return asked


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedOrder:
    """Questions of several files, in every batch in the proportion of the files' weights; each file in shuffled passes.

    >>> order = WeightedOrder(sizes=(10, 30), weights=(1.0, 3.0))
    >>> batch = list(islice(order([], questions_per_batch=8, seed=0), 8))
    >>> sum(index < 10 for index in batch), len(set(batch))
    (2, 8)
    """

    sizes: tuple[int, ...]
    """Questions of each file; their indices follow one another."""
    weights: tuple[float, ...]

    def __call__(self, questions: Sequence[Question], /, *, questions_per_batch: int, seed: int) -> Iterator[int]:
        """Indices without an end; `ConfigError` when a file is too small for its weight."""
        for number, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True), start=1):
            share = weight / sum(self.weights)
            needed = min(questions_per_batch, math.ceil(share * questions_per_batch) + 1)
            if size < needed:
                raise ConfigError(
                    f"data.train_weights: file {number} of data.train has {size} questions, but with its weight of "
                    f"{weight} a batch of {questions_per_batch} asks up to {needed}: lower its weight, or "
                    "training.questions_per_batch"
                )
        return self._indices(questions_per_batch, seed)

    def _indices(self, questions_per_batch: int, seed: int) -> Iterator[int]:
        starts = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        streams = [
            passes(range(start, start + size), Random(f"{seed}-{number}"))
            for number, (start, size) in enumerate(zip(starts, self.sizes, strict=True))
        ]
        due = [0.0] * len(streams)
        while True:
            asked: set[int] = set()
            while len(asked) < questions_per_batch:
                due = [waiting + weight for waiting, weight in zip(due, self.weights, strict=True)]
                file = max(range(len(due)), key=due.__getitem__)
                due[file] -= sum(self.weights)
                # Where a pass ends within a batch, the next one may begin with a question of this batch.
                index = next(index for index in streams[file] if index not in asked)
                asked.add(index)
                yield index


def passes(indices: range, shuffle: Random) -> Iterator[int]:
    """Every index once, in a random order, again and again."""
    while True:
        yield from shuffle.sample(indices, len(indices))
