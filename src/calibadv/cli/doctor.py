"""``calibadv doctor``: check a run before it starts, and say in plain words what would go wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from calibadv.cli.options import Json, Overrides, Verbose, command, print_json, show_settings
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.runs.progress import about, progress_bars

EXAMPLES = """\
  calibadv doctor configs/lab.toml                the changed settings, then the checks
  calibadv doctor configs/lab.toml --probe 16     also play 16 questions: is there anything to learn from?
  calibadv doctor configs/qwen2.5-3b.toml --json  for scripts

Each check is ok, a warning, or a blocker with a remedy. The exit code is 1 when
there is a blocker, 2 when the config itself cannot be read. Nothing is written
into the run's folder.
"""

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
    from calibadv.runs.targets import load_config

    run = load_config(config, overrides=overrides)
    if config.is_dir():
        raise ConfigError(f"{config} is a run that exists already; name the .toml config of one to come")
    require_packages("torch", "transformers", extra="train", what="the doctor")
    from calibadv.doctor import Blocked, Level, examine, verdict, worst

    if not json:
        show_settings(run, verbose=verbose)
    checks = []
    with progress_bars() as progress:
        for check in examine(run, probe=probe, processes=processes, progress=about(progress, "rollouts")):
            checks.append(check)
            if not json:
                print(check.as_text(), flush=True)
    level = worst(checks)
    if json:
        rows = [check.as_row() for check in checks]
        print_json({"verdict": str(level), "checks": rows, "config": run.effective()})
    else:
        print(f"\n{verdict(checks)}")
    if level is Level.BLOCKER:
        sys.stdout.flush()
        blockers = [check for check in checks if check.level is Level.BLOCKER]
        raise Blocked("; ".join(f"{check.name}: {check.remedy or check.summary}" for check in blockers))
