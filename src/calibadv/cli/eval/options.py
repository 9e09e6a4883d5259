"""What ``calibadv eval``, ``eval diff`` and ``eval score`` share: the form of tables, and the judge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from calibadv.cli.options import takes
from calibadv.errors import ConfigError
from calibadv.evaluation.judge import Judge, JudgeConfig
from calibadv.io.packages import require_packages

Form = Literal["text", "markdown", "json", "latex"]
Format = Annotated[Form, Parameter(help="Of the table that is printed.")]
Json = Annotated[bool, Parameter(help="The same as --format json.", show_default=False)]
Out = Annotated[Path | None, Parameter(metavar="DIR", help="Folder for the results; an unfinished one is continued.")]


takes_judge = takes(
    JudgeConfig, "model", "url", "cache", unset=True, group="Judge", model="judge", url="judge_url", cache="judge_cache"
)
"""``--judge MODEL --judge-url URL``; its key is in the environment."""


def judge_of(options: Mapping[str, Any]) -> Judge | None:
    """The judge that was asked for."""
    model, url = options["model"], options["url"]
    if model is None and url is None:
        return None
    if model is None or url is None:
        given, missing = ("--judge", "--judge-url") if model else ("--judge-url", "--judge")
        raise ConfigError(f"{given} needs {missing} too")
    require_packages("httpx2", extra="retrieval", what="a judge")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    cache = options["cache"] or home / "calibadv" / "judge.sqlite"
    return Judge(JudgeConfig(model=model, url=url, cache=cache))
