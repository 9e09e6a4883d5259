"""The options of the optional judge, shared by ``calibadv eval`` and ``calibadv eval score``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from calibadv.cli.options import require_packages
from calibadv.errors import ConfigError

if TYPE_CHECKING:
    from calibadv.evaluation.judge import Judge


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """``--judge``, ``--judge-url``, ``--judge-cache``."""
    group = parser.add_argument_group(
        "judge", "a language model that compares answers with the golden ones; its key stands in CALIBADV_JUDGE_API_KEY"
    )
    group.add_argument("--judge", metavar="MODEL", help="name of the model at the server")
    group.add_argument("--judge-url", metavar="URL", help="an OpenAI-compatible server, such as https://host/v1")
    group.add_argument("--judge-cache", type=Path, metavar="FILE", help="verdicts (default: the user's cache folder)")


def judge_of(arguments: argparse.Namespace) -> Judge | None:
    """The judge that was asked for."""
    if arguments.judge is None and arguments.judge_url is None:
        return None
    if arguments.judge is None or arguments.judge_url is None:
        given, missing = ("--judge", "--judge-url") if arguments.judge else ("--judge-url", "--judge")
        raise ConfigError(f"{given} needs {missing} too")
    require_packages("httpx2", extra="retrieval", what="a judge")
    from calibadv.evaluation.judge import Judge, JudgeConfig

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    cache = arguments.judge_cache or home / "calibadv" / "judge.sqlite"
    return Judge(JudgeConfig(model=arguments.judge, url=arguments.judge_url, cache=cache))
