"""What ``calibadv ask`` and ``calibadv serve`` share: the options that say which agent is meant."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from calibadv.agent import Agent

Model = Annotated[
    str | None,
    Parameter(
        metavar="TARGET",
        help="The folder of a run or a lab, a model folder or hub id, or a .toml config (default: the lab's packaged "
        "model).",
    ),
]
RetrieverOption = Annotated[
    str | None,
    Parameter(
        metavar="URL|INDEX|CORPUS",
        help="Servers (commas), an index folder, or a corpus (default: as in the run; the lab's encyclopedia for its "
        "model).",
    ),
]
Temperature = Annotated[float, Parameter(help="Of the sampling; 0 is greedy.")]
SETTINGS = {
    "engine": "model.engine",
    "model_url": "model.url",
    "top_k": "rollout.top_k",
    "max_searches": "rollout.max_searches",
}
"""Short options for settings."""


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
