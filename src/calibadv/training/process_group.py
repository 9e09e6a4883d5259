"""The process group of a run over several processes, and its end."""

from __future__ import annotations

import atexit
import functools

import torch.distributed


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
