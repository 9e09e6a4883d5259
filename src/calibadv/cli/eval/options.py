"""What ``calibadv eval``, ``eval diff`` and ``eval score`` share: the form of tables, and the judge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages

if TYPE_CHECKING:
    from calibadv.evaluation.judge import Judge

Form = Literal["text", "markdown", "json", "latex"]
Format = Annotated[Form, Parameter(help="Of the table that is printed.")]
Json = Annotated[bool, Parameter(help="The same as --format json.", show_default=False)]
JudgeModel = Annotated[
    str | None,
    Parameter(group="Judge", metavar="MODEL", help="A language model that compares answers with the golden ones."),
]
JudgeUrl = Annotated[
    str | None,
    Parameter(
        group="Judge",
        metavar="URL",
        help="Its OpenAI-compatible server, such as https://host/v1; its key is in CALIBADV_JUDGE_API_KEY.",
    ),
]
JudgeCache = Annotated[
    Path | None, Parameter(group="Judge", metavar="FILE", help="Verdicts (default: in the user's cache folder).")
]
Out = Annotated[Path | None, Parameter(metavar="DIR", help="Folder for the results; an unfinished one is continued.")]


def judge_of(model: str | None, *, url: str | None, cache: Path | None) -> Judge | None:
    """The judge that was asked for."""
    if model is None and url is None:
        return None
    if model is None or url is None:
        given, missing = ("--judge", "--judge-url") if model else ("--judge-url", "--judge")
        raise ConfigError(f"{given} needs {missing} too")
    require_packages("httpx2", extra="retrieval", what="a judge")
    from calibadv.evaluation.judge import Judge, JudgeConfig

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return Judge(JudgeConfig(model=model, url=url, cache=cache or home / "calibadv" / "judge.sqlite"))
