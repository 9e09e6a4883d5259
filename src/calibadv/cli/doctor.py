"""``calibadv doctor``: check a run before it starts, and say in plain words what would go wrong."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from calibadv.cli.eval.run import progress_line
from calibadv.cli.options import add_set_option, new_command, positive, read_run_config, require_packages
from calibadv.errors import ConfigError

EPILOG = """\
examples
  calibadv doctor configs/lab.toml                    every effective setting, then the checks
  calibadv doctor configs/lab.toml --probe 16         also play 16 questions: is there anything to learn from?
  calibadv doctor configs/qwen2.5-3b.toml --json      for scripts

Each check is ok, a warning, or a blocker with a remedy. The exit code is 1 when there is a blocker, 2 when the
config itself cannot be read. Nothing is written into the run's folder.
"""
MARKS = {"ok": "ok     ", "warning": "WARNING", "blocker": "BLOCKER"}
WIDTH = 112


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "doctor",
        help="check a run before it starts: settings, model, retriever, memory, disk, signal",
        description="Check a run before it starts: settings, data, tokenizer, retriever, memory, disk, and a probe.",
        epilog=EPILOG,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a .toml file")
    parser.add_argument("--probe", type=positive, default=0, metavar="N", help="play N training questions")
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="how many will train (accelerate launch); default: 1"
    )
    parser.add_argument("--json", action="store_true", help="print settings and checks as JSON")
    add_set_option(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Examine and report."""
    config = read_run_config(arguments.config, overrides=arguments.overrides)
    if arguments.config.is_dir():
        raise ConfigError(f"{arguments.config} is a run that exists already; name the .toml config of one to come")
    require_packages("torch", "transformers", extra="train", what="the doctor")
    from calibadv.doctor import Blocked, Level, examine, worst
    from calibadv.io.files import leaves

    if not arguments.json:
        unset = [name for name, value in leaves(config.effective()) if value is None]
        print(config.to_toml() + f"# not set: {', '.join(unset)}\n", flush=True)
    checks = []
    for check in examine(config, probe=arguments.probe, processes=arguments.processes, progress=progress_line()):
        checks.append(check)
        if not arguments.json:
            show(check.name, str(check.level), check.summary, check.remedy)
    level = worst(checks)
    if arguments.json:
        rows = [check.as_row() for check in checks]
        print(json.dumps({"verdict": str(level), "checks": rows, "config": config.effective()}, indent=2, default=str))
    else:
        print("\n" + closing_words(level=str(level), count=sum(check.level is level for check in checks)))
    if level is Level.BLOCKER:
        sys.stdout.flush()
        blockers = [check for check in checks if check.level is Level.BLOCKER]
        raise Blocked("; ".join(f"{check.name}: {check.remedy or check.summary}" for check in blockers))


def show(name: str, level: str, summary: str, remedy: str) -> None:
    """One check for the terminal."""
    lines = textwrap.wrap(summary, WIDTH - 26) or [""]
    lines += [f"-> {line}" if n == 0 else f"   {line}" for n, line in enumerate(textwrap.wrap(remedy, WIDTH - 29))]
    for number, line in enumerate(lines):
        start = f"{MARKS[level]}  {name:<15}" if number == 0 else " " * 24
        print(f"{start}  {line}", flush=True)


def closing_words(*, level: str, count: int) -> str:
    """The verdict over all checks."""
    if level == "ok":
        return "Nothing stands in the way of this run."
    noun = level if count == 1 else f"{level}s"
    if level == "warning":
        return f"This run would start; {count} {noun} to think about first."
    return f"This run would fail or teach nothing: {count} {noun}."
