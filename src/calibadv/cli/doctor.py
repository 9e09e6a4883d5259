"""``calibadv doctor``: check a run before it starts, and say in plain words what would go wrong."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from calibadv.cli.console.options import Json, Overrides, Verbose, command, print_json
from calibadv.cli.console.settings import show_settings
from calibadv.cli.console.terminal import progress_bars
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.runs.progress import about
from calibadv.runs.targets import read_run_config

EXAMPLES = """\
  calibadv doctor configs/lab.toml                the changed settings, then the checks
  calibadv doctor configs/lab.toml --probe 16     also play 16 questions: is there anything to learn from?
  calibadv doctor configs/qwen2.5-3b.toml --json  for scripts

Each check is ok, a warning, or a blocker with a remedy. The exit code is 1 when
there is a blocker, 2 when the config itself cannot be read. Nothing is written
into the run's folder.
"""
MARKS = {"ok": "ok     ", "warning": "WARNING", "blocker": "BLOCKER"}
WIDTH = 112

app = command("doctor", examples=EXAMPLES)


@app.default
def doctor(
    config: Annotated[Path, Parameter(help="A .toml file.")],
    /,
    *,
    probe: Annotated[NonNegativeInt, Parameter(help="Play so many training questions.")] = 0,
    processes: Annotated[PositiveInt, Parameter(help="How many will train (accelerate launch).")] = 1,
    json: Json = False,
    verbose: Verbose = False,
    overrides: Overrides = (),
) -> None:
    """Check a run before it starts: settings, data, tokenizer, retriever, memory, disk, and a probe."""
    run = read_run_config(config, overrides=overrides)
    if config.is_dir():
        raise ConfigError(f"{config} is a run that exists already; name the .toml config of one to come")
    require_packages("torch", "transformers", extra="train", what="the doctor")
    from calibadv.doctor import Blocked, Level, examine, worst

    if not json:
        show_settings(run, verbose=verbose)
    checks = []
    with progress_bars() as progress:
        for check in examine(run, probe=probe, processes=processes, progress=about(progress, "rollouts")):
            checks.append(check)
            if not json:
                show(check.name, str(check.level), check.summary, check.remedy)
    level = worst(checks)
    if json:
        rows = [check.as_row() for check in checks]
        print_json({"verdict": str(level), "checks": rows, "config": run.effective()})
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
