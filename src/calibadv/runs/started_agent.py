"""Opening an agent sooner, for a process that does nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibadv.agent import Agent


@contextmanager
def started_agent(target: str | None, **options: Any) -> Iterator[Agent]:
    """As `opened_agent`, but sooner: importing torch and transformers makes a million objects, all of which stay.

    Looking for garbage among them took a quarter of the start, so nobody looks: not while they are made (no collection)
    and not later (they are frozen until the agent is closed).
    """
    from calibadv.runs.agent import opened_agent

    with ExitStack() as stack:
        gc.disable()
        stack.callback(gc.enable)
        agent = stack.enter_context(opened_agent(target, **options))
        gc.freeze()
        stack.callback(gc.unfreeze)
        gc.enable()
        yield agent
