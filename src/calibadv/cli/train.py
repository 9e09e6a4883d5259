"""``calibadv train``: one training run from a config file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import Overrides, Verbose, command, show_settings
from calibadv.data.run_files import MODEL
from calibadv.io.packages import require_packages

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tantivy")

EXAMPLES = """\
  calibadv train configs/lab.toml
  calibadv train configs/lab.toml --set training.steps=2        a quick look
  calibadv train configs/lab.toml --set algorithm.name=grpo --set training.output=runs/grpo
  calibadv train configs/lab.toml --dry-run --verbose           every setting
  calibadv train --resume runs/lab-run                              continue a run
  calibadv train --resume runs/lab-run --set training.steps=60

SIGINT (Ctrl-C) and SIGTERM save a checkpoint and stop; a second one stops at
once. The folder of the run (training.output) holds config.toml with every
setting, metrics.jsonl, the trajectories of every batch with their advantages,
the checkpoints, and the trained model in Hugging Face form.
"""
Config = Annotated[Path | None, Parameter(help="A .toml file, such as configs/lab.toml.", show_default=False)]
Resume = Annotated[
    list[str] | None,
    Parameter(
        consume_multiple=(0, 1),
        metavar="[RUN]",
        help="Continue from the last checkpoint of this run (default: of the run that the config names).",
    ),
]
DryRun = Annotated[bool, Parameter(help="Print the settings and stop.", show_default=False)]
PushToHub = Annotated[
    str | None,
    Parameter(
        metavar="OWNER/NAME",
        help="Upload the trained model to this repository of the Hugging Face hub, private (token: HF_TOKEN).",
    ),
]

app = command("train", examples=EXAMPLES)


@app.default
def train(
    config: Config = None,
    /,
    *,
    overrides: Overrides = (),
    resume: Resume = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
    push_to_hub: PushToHub = None,
) -> None:
    """Train a policy as a config file says."""
    from calibadv.runs.targets import config_to_run

    run = config_to_run(config, resume=folder_of(resume), overrides=overrides)
    run.check_trainable()
    show_settings(run, verbose=verbose)
    if dry_run:
        return
    require_packages(*PACKAGES, extra="train", what="training")
    from calibadv.io.hub import check_upload, upload_folder
    from calibadv.runs import train as runs

    if push_to_hub:
        check_upload(push_to_hub, option="--push-to-hub")
    with stopped():
        folder = shortest(runs.train(run, resume=resume is not None, progress=True))
    print(f"\nDone: {folder}")
    print(f"  calibadv eval {folder}            evaluate the trained policy on data.test")
    print(f"  calibadv report {folder}          curves and a page")
    print(f"  calibadv trajectories {folder}    what it wrote, turn by turn")
    if push_to_hub:
        print(f"Uploaded to {upload_folder(folder / MODEL, push_to_hub, option='--push-to-hub')}")


@contextmanager
def stopped() -> Iterator[None]:
    """SIGTERM ends with the exit code that the system expects of it; SIGINT is the business of `main`."""
    from calibadv.training.signals import StopRequested

    try:
        yield
    except StopRequested as request:
        if request.signum == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


def folder_of(resume: list[str] | None) -> Path | None:
    """What ``--resume`` names, if it names anything."""
    return Path(resume[0]) if resume else None


def shortest(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
