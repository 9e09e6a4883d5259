"""The ``calibadv`` command: its help, its subcommands, and errors as one clear line with an exit code.

Exit codes: 0 fine; 1 anything else; 2 a setting or a file is wrong; 3 the retriever is gone; 4 the policy cannot
generate; 130 interrupted. ``CALIBADV_DEBUG=1`` shows the traceback. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from calibadv.cli import (
    ask,
    corpus,
    data,
    doctor,
    index,
    lab,
    report,
    retriever,
    serve,
    sft,
    train,
    trajectories,
)
from calibadv.cli.eval import diff as evaluate_diff
from calibadv.cli.eval import run as evaluate
from calibadv.cli.eval import score as evaluate_score
from calibadv.errors import CalibAdvError, ConfigError, DataError, PolicyError, RetrieverError
from calibadv.version import __version__

EXIT_CODES: tuple[tuple[type[CalibAdvError], int], ...] = (
    (ConfigError, 2),
    (DataError, 2),
    (RetrieverError, 3),
    (PolicyError, 4),
)
INTERRUPTED = 130

DESCRIPTION = """\
Train search agents with calibrated advantages (CalibAdv): a language model learns with reinforcement learning to answer
questions by reasoning and calling a search engine over several turns.
"""
EPILOG = """\
first steps
  calibadv lab                                  train a tiny agent twice (GRPO, CalibAdv) on a laptop, in minutes
  calibadv report runs/lab-...                  draw its curves, look at its trajectories in a page
  calibadv doctor configs/lab.toml              check a run before it starts
  calibadv train configs/lab.toml               one run from a config file
  calibadv eval runs/lab                        evaluate what was trained
  calibadv data prepare --help                  questions of the seven benchmarks
  calibadv corpus import notes/ --out corpus    documents of your own, ready for an index
  calibadv trajectories runs/lab -n 2           read what the agent wrote, turn by turn

Every command explains itself: calibadv COMMAND --help. A run is a TOML file; --set section.key=value changes a setting.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="calibadv",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"calibadv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        doctor,
        data,
        corpus,
        sft,
        train,
        evaluate,
        evaluate_diff,
        evaluate_score,
        index,
        retriever,
        ask,
        serve,
        lab,
        report,
        trajectories,
    ):
        command.add_parser(commands)
    return parser


def two_words(argv: Sequence[str]) -> list[str]:
    """``eval diff`` and ``eval score`` are commands of their own; a target of that name is ``./diff``.

    >>> two_words(["eval", "diff", "a", "b"])
    ['eval diff', 'a', 'b']
    """
    if list(argv[:1]) == ["eval"] and list(argv[1:2]) in (["diff"], ["score"]):
        return [" ".join(argv[:2]), *argv[2:]]
    return list(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = make_parser().parse_args(two_words(sys.argv[1:] if argv is None else argv))
    debug = os.environ.get("CALIBADV_DEBUG", "") not in ("", "0")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("calibadv").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    try:
        arguments.command(arguments)
    except KeyboardInterrupt:
        if argv is None:  # the process ends now; one more Ctrl-C would only change its exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("calibadv: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CalibAdvError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
