"""What ``calibadv ask`` and ``calibadv serve`` share: the options that say which agent is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from calibadv.runs.agent import lab_config, open_agent
from calibadv.runs.targets import config_of, retriever_settings

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
def opened_agent(
    model: str | None,
    *,
    retriever: str | None,
    arm: str | None,
    overrides: Sequence[str],
    max_conversations: int = 1,
) -> Iterator[Agent]:
    """The agent that the options mean; the lab's when they name no model."""
    with ExitStack() as stack:
        if model is None:
            retrieval = None if retriever is None else _given(retriever_settings(retriever))
            config = stack.enter_context(lab_config(overrides=overrides, retrieval=retrieval))
        else:
            config = config_of(model, arm=arm, retriever=retriever, overrides=overrides)
        yield stack.enter_context(open_agent(config, max_conversations=max_conversations))


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value != "none"}
