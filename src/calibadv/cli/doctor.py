"""``calibadv doctor``: check a run before it starts, and say in plain words what would go wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveInt

from calibadv.cli.options import Json, Overrides, Positive, Verbose, command, print_json, show_settings
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.runs.progress import about, progress_bars

if TYPE_CHECKING:
    from calibadv.config import RunConfig

EXAMPLES = """\
  calibadv doctor configs/lab.toml                the changed settings, then the checks
  calibadv doctor configs/lab.toml --probe 16     also play 16 questions: is there anything to learn from?
  calibadv doctor configs/qwen2.5-3b.toml --json  for scripts
  calibadv doctor configs/qwen2.5-7b.toml --gpus 8 --gpu h100    a plan for GPUs that are not here: memory, time

Each check is ok, a warning, or a blocker with a remedy. The exit code is 1 when
there is a blocker, 2 when the config itself cannot be read. Nothing is written
into the run's folder. With --gpus and --gpu nothing is checked: a plan says what
fits on such a machine and how long the run would take (docs/scaling.md).
"""

PLAN = "Plan"
Sharding = Literal["ddp", "fsdp2", "zero3"]
Assume = Annotated[
    tuple[str, ...],
    Parameter(metavar="NAME=VALUE", help="Change an assumption (repeatable).", show_default=False, group=PLAN),
]

app = command("doctor", examples=EXAMPLES)


@app.default
def doctor(
    config: Annotated[Path, Parameter(help="A .toml file.")],
    /,
    *,
    probe: Annotated[NonNegativeInt, Parameter(help="Play so many training questions.")] = 0,
    processes: Annotated[PositiveInt, Parameter(help="How many will train (accelerate launch).")] = 1,
    gpus: Annotated[Positive, Parameter(help="Plan for so many GPUs a machine.", group=PLAN)] = None,
    gpu: Annotated[str | None, Parameter(help="Their kind, such as h100 or a100-40gb.", group=PLAN)] = None,
    nodes: Annotated[PositiveInt, Parameter(help="Machines.", group=PLAN)] = 1,
    sharding: Annotated[Sharding | None, Parameter(help="Only this way to share the model.", group=PLAN)] = None,
    server_gpus: Annotated[Positive, Parameter(help="For a vLLM server (default: a quarter).", group=PLAN)] = None,
    measured: Annotated[Path | None, Parameter(help="A report of benchmarks/gpu.py.", group=PLAN)] = None,
    assume: Assume = (),
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
    planned = gpus is not None or gpu is not None or measured is not None
    check_kind(
        planned,
        plan={"--nodes": nodes > 1, "--sharding": sharding, "--server-gpus": server_gpus, "--assume": assume},
        checks={"--probe": probe, "--processes": processes > 1},
    )
    if planned:
        cluster = {"gpu": gpu, "gpus": gpus, "nodes": nodes}
        show_plan(run, cluster, sharding=sharding, servers=server_gpus, measured=measured, assume=assume, json=json)
        return
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


def check_kind(planned: bool, *, plan: dict[str, Any], checks: dict[str, Any]) -> None:
    """Refuse options that would have no effect."""
    for name, given in (checks if planned else plan).items():
        if given and planned:
            raise ConfigError(f"{name} is for the checks on this machine; leave it out of a plan (--gpus, --gpu)")
        if given:
            raise ConfigError(f"{name} is for a plan: say for which machine, such as --gpus 8 --gpu h100")


def show_plan(
    run: RunConfig, cluster: dict[str, Any], *, sharding: Sharding | None, servers: int | None, measured: Path | None,
    assume: tuple[str, ...], json: bool,
) -> None:  # fmt: skip
    """Print what the run would take on that cluster; `Blocked` when it fits in no way."""
    from calibadv.doctor import Blocked
    from calibadv.doctor.plan import plan_cluster, plan_run, plan_text

    machine, assumptions, known = plan_cluster(**cluster, measured=measured, changes=assume)
    plan = plan_run(run, cluster=machine, assumptions=assumptions, measured=known, servers=servers, sharding=sharding)
    if json:
        print_json({"plan": plan.as_row(), "config": run.effective()})
    else:
        print(plan_text(plan), flush=True)
    if not plan.suitable:
        sys.stdout.flush()
        trained = "an adapter of" if run.lora.rank else "all weights of"
        raise Blocked(
            f"training {trained} {run.model.path} does not fit on {machine.size} x {machine.gpu.name} in any of "
            "these ways"
        )
