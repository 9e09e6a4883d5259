"""What several commands share: options, the check for missing packages, the config of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages as require_packages

if TYPE_CHECKING:
    from calibadv.config import RunConfig

Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def new_command(commands: Any, name: str, *, help: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand whose help keeps its layout."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """``--set section.key=value``, as often as one likes."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change a setting of the config; the value is TOML, plain words need no quotes (repeatable)",
    )


def add_address_options(parser: argparse.ArgumentParser, *, port: int) -> None:
    """``--host`` and ``--port`` of a server."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=port, help=f"port; 0 takes any free one (default: {port})")


def add_corpus_option(parser: argparse.ArgumentParser) -> None:
    """``--corpus`` of commands that open an index."""
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus, when it is not where the index says")


def add_encoder_option(parser: argparse.ArgumentParser) -> None:
    """``--encoder`` of commands that open an index."""
    parser.add_argument(
        "--encoder", metavar="MODEL", help="its encoder, when that is not where the index says: a folder or a hub id"
    )


def add_device_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--device`` of commands that encode or re-rank."""
    parser.add_argument(
        "--device", metavar="NAME", help="where models run: cpu, cuda, cuda:1, ... (default: a GPU if there is one)"
    )


def add_search_device_option(parser: argparse.ArgumentParser) -> None:
    """``--search-device`` of commands that search an index."""
    parser.add_argument(
        "--search-device",
        default="cpu",
        metavar="NAME",
        help="what compares the vectors of a dense index: cpu, a GPU with all of them in its memory (cuda, cuda:1), "
        "or auto, a GPU if they fit (default: cpu)",
    )


def read_run_config(target: Path, *, overrides: Sequence[str]) -> RunConfig:
    """The config of a TOML file or of a run's folder."""
    from calibadv.config import RunConfig
    from calibadv.data.run_files import CONFIG

    if target.is_dir():
        if not (target / CONFIG).is_file():
            raise ConfigError(f"{target} is not a run's folder: it has no {CONFIG}; name a .toml config or a run")
        target = target / CONFIG
    return RunConfig.read(target, overrides=overrides)


def positive(text: str) -> int:
    """A whole number >= 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {text}")
    return number


def count(text: str) -> int:
    """A whole number >= 0, for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be >= 0, got {text}")
    return number


def names(text: str) -> tuple[str, ...]:
    """Words separated by commas, for argparse."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names separated by commas, got {text!r}")
    return found
