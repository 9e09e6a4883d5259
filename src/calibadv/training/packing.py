"""How the rollouts of a batch are divided: into mini-batches, and those into passes of a bounded number of tokens.

A *mini-batch* is what one optimizer step is made from; a *pass* is what goes through the model at once. Rows are
numbered as one process would play them, question after question, so that the mini-batches of a run do not depend on
the number of its processes. No torch here: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MAX_LOGITS = 1 << 26
"""Logits held at once (256 MiB in float32); beyond that the head runs in pieces that the backward pass repeats."""


def dealt(batch: Sequence[T], *, processes: int) -> list[T]:
    """A batch in the order in which consecutive shares of it go to the processes: dealt out like cards.

    The questions of every mini-batch are thus spread over all processes.

    >>> dealt([0, 1, 2, 3, 4, 5], processes=2)
    [0, 2, 4, 1, 3, 5]
    """
    return [item for process in range(processes) for item in batch[process::processes]]


def mini_batches_of(num_rows: int, *, group: int, process: int, processes: int, mini_batches: int) -> list[int]:
    """The number of the mini-batch of each of a process's rows.

    Mini-batches are consecutive rollouts of the batch, as many in each (one more in some, where the number does not
    divide); they may begin and end within a group.

    >>> mini_batches_of(6, group=3, process=0, processes=1, mini_batches=3)
    [0, 0, 1, 1, 2, 2]
    >>> mini_batches_of(4, group=2, process=1, processes=2, mini_batches=2)  # of rows 2, 3, 6, 7 of 8
    [0, 0, 1, 1]
    """
    numbers = ((row // group * processes + process) * group + row % group for row in range(num_rows))
    return [number * mini_batches // (num_rows * processes) for number in numbers]


def passes_of(lengths: Sequence[int], *, budget: int) -> list[list[int]]:
    """Rows in passes of at most ``budget`` tokens, padding included; a longer row has a pass of its own.

    Rows of about one length share a pass, the longest come first (what does not fit into memory fails at once), and
    no division into passes of such neighbours has fewer.

    >>> passes_of([3, 9, 4, 3], budget=8)
    [[1], [2, 0], [3]]
    """
    passes: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if passes and lengths[passes[-1][0]] * (len(passes[-1]) + 1) <= budget:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


def same_number(passes: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The passes of a process, filled up with empty ones to the ``count`` that every process makes.

    >>> same_number([[2, 0], [1]], 3)
    [[2, 0], [1], []]
    """
    return [list(rows) for rows in passes] + [[] for _ in range(count - len(passes))]
