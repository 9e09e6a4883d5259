"""``calibadv train``: one training run from a config file."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import add_set_option, new_command, read_run_config, require_packages
from calibadv.errors import ConfigError

if TYPE_CHECKING:
    from calibadv.config import RunConfig

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "tantivy")

EPILOG = """\
examples
  calibadv train configs/lab.toml
  calibadv train configs/lab.toml --set algorithm.name=grpo --set training.output=runs/lab-run-grpo
  calibadv train configs/lab.toml --set calibration.rebalance_coef=0.5 --set training.steps=20
  calibadv train --resume runs/lab-run                      go on where a run stopped, with its own settings
  calibadv train --resume runs/lab-run --set training.steps=60

SIGINT (Ctrl-C) and SIGTERM save a checkpoint and stop; a second one stops at once.

The effective configuration is printed and saved as config.toml in the run's folder (training.output), next to
metrics.jsonl, the trajectories of every batch with their advantages, the checkpoints, and the trained model in Hugging
Face form.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "train",
        help="train a policy as a config file says",
        description="Train a policy as a config file says.",
        epilog=EPILOG,
    )
    add_run_options(parser, output="training.output")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Train."""
    config, resume = config_of(arguments)
    config.check_trainable()
    print(config.to_toml(), flush=True)
    if arguments.dry_run:
        return
    require_packages(*PACKAGES, extra="train", what="training")
    from calibadv.data.run_files import MODEL
    from calibadv.io.hub import check_upload, upload_folder
    from calibadv.runs.train import train

    if arguments.push_to_hub:
        check_upload(arguments.push_to_hub, option="--push-to-hub")
    with stopped():
        folder = shortest(train(config, resume=resume, listeners=[show_line]))
    print(f"\nDone: {folder}")
    print(f"  calibadv eval {folder}            evaluate the trained policy on data.test")
    print(f"  calibadv report {folder}          curves and a page")
    print(f"  calibadv trajectories {folder}    what it wrote, turn by turn")
    if arguments.push_to_hub:
        print(f"Uploaded to {upload_folder(folder / MODEL, arguments.push_to_hub, option='--push-to-hub')}")


def add_run_options(parser: argparse.ArgumentParser, *, output: str) -> None:
    """The run, named by a config or by its folder, and what becomes of it; `config_of` reads what is given."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a .toml file, such as configs/lab.toml")
    add_set_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="RUN_DIR",
        help=f"go on from the last checkpoint of this run (default: that of {output})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the effective configuration and stop")
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="upload the trained model to this repository of the Hugging Face hub, private (token: HF_TOKEN)",
    )


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


def config_of(arguments: argparse.Namespace, *, output: str = "training.output") -> tuple[RunConfig, bool]:
    """The run's config, and whether it is resumed. ``output`` is the setting that names its folder."""
    target, resume, overrides = arguments.config, arguments.resume, list(arguments.overrides)
    if isinstance(resume, str):
        if target is None:
            target = Path(resume)
            if not target.exists():
                raise ConfigError(f"--resume {resume}: no such folder; name the folder of a run, such as runs/lab-run")
            if target.is_dir():  # the folder may have moved since it was written
                overrides.insert(0, f"{output}={target.absolute()}")
        else:
            overrides.append(f"{output}={resume}")
    if target is None:
        raise ConfigError("name a config, such as configs/lab.toml, or a run with --resume RUN_DIR")
    return read_run_config(target, overrides=overrides), resume is not False


def shortest(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def show_line(line: dict[str, Any]) -> None:
    """One line of metrics.jsonl or eval.jsonl for the terminal."""
    if "questions" in line:
        low, high = line.get("f1_low"), line.get("f1_high")
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        print(f"step {line['step']:>4}  evaluation: F1 {line['f1']:.3f}{interval}, EM {line['em']:.3f}", flush=True)
        return
    shown = (
        ("reward", "reward", "{:.3f}"),
        ("f1", "F1", "{:.3f}"),
        ("format_valid", "format", "{:.0%}"),
        ("searches", "searches", "{:.1f}"),
        ("entropy", "entropy", "{:.2f}"),
        ("mispenalised_share", "mis-penalised", "{:.0%}"),
        ("groups_without_signal", "no signal", "{:.0%}"),
        ("grad_norm", "grad", "{:.2g}"),
        ("seconds_step", "", "{:.1f} s"),
    )
    parts = [f"{label} {form.format(line[key])}".strip() for key, label, form in shown if line.get(key) is not None]
    print(f"step {line['step']:>4}  {'  '.join(parts)}", flush=True)
    if line.get("skipped_updates"):
        print(f"           {line['skipped_updates']} update(s) skipped: a gradient was not finite", file=sys.stderr)
