"""The process group of a run over several processes: joining it, agreeing in it, losing a member, leaving it.

The functions that talk to other processes must be called by all of them; with one process they do nothing.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed
from accelerate import PartialState
from accelerate.utils import gather_object

from calibadv.errors import CalibAdvError, ConfigError, ProcessLost, first_line
from calibadv.io.files import leaves


def join_process_group(*, processes: int, on_cpu: bool, timeout_s: float) -> None:
    """Meet the other processes; afterwards none of them waits longer than ``timeout_s`` for another.

    The Trainer would do it too, but drops the timeout on a CPU.
    """
    if processes > 1:
        PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout_s))
        leave_process_group_at_exit()


def raise_everywhere(failure: CalibAdvError | None, *, num_processes: int) -> None:
    """Raise when any process failed: otherwise the others would wait for it for ever."""
    if num_processes > 1:
        failures = gather_object([failure and (type(failure), str(failure))])
        other = next((known for known in failures if known), None)
        if other is not None and failure is None:
            kind, message = other
            failure = kind(f"in another process: {message}")
    if failure is not None:
        raise failure


@contextmanager
def together(*, num_processes: int) -> Iterator[None]:
    """All processes get past this block, or none does."""
    failure = None
    try:
        yield
    except CalibAdvError as error:
        if num_processes == 1:
            raise
        failure = error
    raise_everywhere(failure, num_processes=num_processes)


def check_same_settings(settings: dict[str, Any], *, num_processes: int) -> None:
    """Refuse processes that were started with different settings (nested plain values)."""
    if num_processes == 1:
        return
    mine = dict(leaves(settings))
    for rank, theirs in enumerate(gather_object([mine])):
        for key in mine | theirs:
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"the processes of this run have different settings: {key} is {theirs.get(key)!r} in process "
                    f"{rank} and {mine.get(key)!r} in another; start all of them with the same config and --set"
                )


@contextmanager
def lost_process_explained(where_to_resume: Callable[[], str]) -> Iterator[None]:
    """Raise `ProcessLost` when another process of the run is gone, in place of what the network library says."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise ProcessLost(
            f"another process of this run has ended or does not answer ({first_line(error)}); {where_to_resume()}"
        ) from error


def is_lost_process(error: BaseException) -> bool:
    """Whether an error means that another process could not be reached. Gloo's errors have no type of their own."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@functools.cache
def leave_process_group_at_exit() -> None:
    """Leave the process group before the interpreter ends.

    The threads of a group that is still there would ask for the interpreter while it shuts down, and now and then abort
    a process whose run is complete ("terminate called without an active exception", exit code -6). Not at the end of
    the run: a program may train twice, and Accelerate keeps the group.
    """
    atexit.register(_leave_process_group)


def _leave_process_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
