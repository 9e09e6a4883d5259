"""What ``calibadv ask`` and ``calibadv serve`` share: the options that say which agent is meant."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

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
