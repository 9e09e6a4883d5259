"""The ``calibadv`` command: its help, its commands, and errors as one clear line with an exit code.

Exit codes: 0 fine; 1 anything else; 2 a setting, a file or the command line is wrong; 3 the retriever is gone; 4 the
policy cannot generate; 130 interrupted; 143 ended by SIGTERM. ``CALIBADV_DEBUG=1`` shows the traceback. A command is
imported when it is called.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group, Parameter

from calibadv.cli.options import epilogue
from calibadv.errors import CalibAdvError, ConfigError, DataError, PolicyError, RetrieverError
from calibadv.version import __version__

EXIT_CODES: tuple[tuple[type[CalibAdvError], int], ...] = (
    (ConfigError, 2),
    (DataError, 2),
    (RetrieverError, 3),
    (PolicyError, 4),
)
USAGE, INTERRUPTED = 2, 130

DESCRIPTION = """\
Train search agents with calibrated advantages (CalibAdv): a language model
learns with reinforcement learning to answer questions by reasoning and calling
a search engine over several turns.
"""
FIRST_STEPS = """\
  calibadv lab --out runs/lab         train a tiny agent twice (GRPO, CalibAdv)
  calibadv ask                        questions to put to the packaged agent
  calibadv report runs/lab            its curves and trajectories as a page
  calibadv trajectories runs/lab -n 2  what it wrote, turn by turn
  calibadv eval runs/lab              evaluate what was trained
  calibadv train configs/lab.toml     one run from a config file

Every command explains itself: calibadv COMMAND --help. A run is a TOML file;
--set section.key=value changes a setting. calibadv --install-completion makes
TAB complete commands and options in your shell.
"""
COMMANDS = {
    "lab": ("calibadv.cli.lab", "Train a tiny search agent on this machine, twice, and compare."),
    "ask": ("calibadv.cli.ask", "Put a question to an agent and watch its turns."),
    "train": ("calibadv.cli.train", "Train a policy as a config file says."),
    "eval": ("calibadv.cli.eval.run", "Evaluate a model; eval diff and eval score compare and score."),
    "report": ("calibadv.cli.report", "Draw the curves of a run and write a page about it."),
    "trajectories": ("calibadv.cli.trajectories", "Show what the agent wrote, turn by turn."),
    "serve": ("calibadv.cli.serve", "Serve an agent over HTTP (OpenAI-compatible, with a web page)."),
    "corpus": ("calibadv.cli.corpus", "Import, describe and check a corpus of documents."),
    "index": ("calibadv.cli.index", "Build, search and check the indexes of a corpus."),
    "retriever": ("calibadv.cli.retriever", "Serve an index over HTTP."),
    "data": ("calibadv.cli.data", "Prepare the questions of the seven benchmarks, or your own."),
    "doctor": ("calibadv.cli.doctor", "Check a run before it starts."),
    "sft": ("calibadv.cli.sft", "Teach a model the tags from demonstrations, before train."),
    "init": ("calibadv.cli.init", "Copy a config to start from."),
}
"""In the order in which one meets them: name -> module with its ``app``, and what it does."""


def make_app() -> App:
    """The whole command line; no command is imported yet."""
    app = App(
        name="calibadv",
        help=DESCRIPTION,
        help_epilogue=epilogue(FIRST_STEPS, title="first steps"),
        help_format="plaintext",
        version=f"calibadv {__version__}",
        version_format="plaintext",
        default_parameter=Parameter(negative=(), allow_repeating=True),  # of two --split the last counts
        suppress_keyboard_interrupt=False,
    )
    for number, (name, (module, text)) in enumerate(COMMANDS.items()):
        app.command(f"{module}:app", name=name, help=text, sort_key=number)
    app.register_install_completion_command(help="Make TAB complete commands and options in this shell.")
    options = Group("Options")
    for flag in ("--help", "--version", "--install-completion"):
        app[flag].group = (options,)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    debug = os.environ.get("CALIBADV_DEBUG", "") not in ("", "0")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("calibadv").setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = make_app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except KeyboardInterrupt:
        if argv is None:  # the process ends now; one more Ctrl-C would only change its exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("calibadv: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CycloptsError as error:
        print(f"calibadv: {usage_error(error)}", file=sys.stderr)
        return USAGE
    except (CalibAdvError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    return code if isinstance(code, int) else 0


def usage_error(error: CycloptsError) -> str:
    """What is wrong with the command line, and where its help is."""
    words = " ".join(["calibadv", *(error.command_chain or ()), "--help"])
    return f"{' '.join(str(error).split())} See {words}"


if __name__ == "__main__":
    sys.exit(main())
