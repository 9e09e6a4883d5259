"""``calibadv lab``: the whole method on a laptop, and the lab's tools (pretrain, probe, world)."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibadv.cli.options import new_command, positive, require_packages
from calibadv.cli.train import PACKAGES
from calibadv.errors import ConfigError
from calibadv.lab.questions import write_world

EPILOG = """\
examples
  calibadv lab                                            GRPO and CalibAdv from the same base, in minutes
  calibadv lab --steps 10 --seeds 1                       a quick look
  calibadv lab --arms grpo,calibadv,calibadv:lambda=0.5   other arms
  calibadv lab --preset aggressive --seeds 3              settings in which training can collapse
  calibadv lab --resume                                   continue a lab that was interrupted
  calibadv lab world --out runs/world                     the encyclopedia and its questions as files
  calibadv lab probe                                      does the base policy really read?
  calibadv lab pretrain                                   make the base policy again, from scratch
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand and its tools."""
    parser = new_command(
        commands,
        "lab",
        help="train a tiny search agent on this machine, twice, and compare",
        description="Train a tiny search agent in a fictional encyclopedia, once per algorithm, and compare.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="optimizer steps of each arm (default: the preset's)"
    )
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="runs per arm (default: 1)")
    parser.add_argument(
        "--arms", metavar="A,B,...", help="grpo, calibadv, calibadv:lambda=0.5, ... (default: the preset's)"
    )
    parser.add_argument("--preset", default="default", metavar="NAME", help='"default" or "aggressive"')
    parser.add_argument("--model", type=Path, metavar="DIR", help="base policy (default: the packaged one)")
    parser.add_argument("--workers", type=positive, metavar="N", help="runs at the same time (default: one per CPU)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the results (default: runs/lab)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the lab in that folder: finished runs are kept",
    )
    parser.set_defaults(command=run_lab_command)
    tools = parser.add_subparsers(title="tools", metavar="TOOL")
    _add_pretrain(tools)
    _add_probe(tools)
    _add_world(tools)


def _add_pretrain(tools: Any) -> None:
    parser = new_command(
        tools,
        "pretrain",
        help="train the base policy from scratch",
        description="Train the lab's base policy from scratch: 10 to 20 minutes on one core for the default preset.",
        epilog="example\n  calibadv lab pretrain --out runs/lab-base --seed 1",
    )
    parser.add_argument(
        "--preset", dest="pretrain_preset", default="default", metavar="NAME", help='"default" or "lab-large"'
    )
    parser.add_argument("--out", dest="pretrain_out", type=Path, metavar="DIR", help="folder of the policy")
    parser.add_argument("--seed", type=int, metavar="N")
    parser.add_argument("--steps", dest="pretrain_steps", type=positive, metavar="N", help="steps of the reading stage")
    parser.set_defaults(command=run_pretrain)


def _add_probe(tools: Any) -> None:
    parser = new_command(
        tools,
        "probe",
        help="measure whether a policy really reads its documents",
        description="Compare a policy's F1 on worlds it knows, on worlds it never saw, and with random documents.",
        epilog="examples\n  calibadv lab probe\n  calibadv lab probe runs/lab-base --questions 400",
    )
    parser.add_argument("policy", nargs="?", type=Path, metavar="POLICY_DIR", help="default: the packaged base policy")
    parser.add_argument("--questions", type=positive, metavar="N", help="test questions of each world")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(command=run_probe)


def _add_world(tools: Any) -> None:
    parser = new_command(
        tools,
        "world",
        help="write a fictional encyclopedia and its questions as files",
        description="Write corpus.jsonl, questions.train.jsonl and questions.test.jsonl of one world.",
        epilog="example\n  calibadv lab world --out runs/world --seed 7\n  calibadv train configs/lab.toml",
    )
    parser.add_argument("--out", dest="world_out", type=Path, required=True, metavar="DIR", help="new folder")
    parser.add_argument("--seed", type=int, default=1001, metavar="N", help="which world (default: 1001)")
    parser.add_argument("--size", type=positive, metavar="N", help="articles")
    parser.set_defaults(command=run_world)


def run_lab_command(arguments: argparse.Namespace) -> None:
    """Train every arm and compare."""
    check_policy_folder(arguments.model, option="--model")
    if not arguments.resume:
        check_new_folder(arguments.out)
    require_packages(*PACKAGES, "matplotlib", extra="all", what="the lab")
    from calibadv.cli.lab_progress import LabProgress, print_summary
    from calibadv.lab.compare import run_lab
    from calibadv.lab.config import LabConfig

    lab = LabConfig(
        preset=arguments.preset,
        arms=arguments.arms,
        steps=arguments.steps,
        seeds=arguments.seeds,
        out=arguments.out,
        model=None if arguments.model is None else str(arguments.model),
        workers=arguments.workers,
    )
    with LabProgress() as progress:
        folder = run_lab(lab, resume=arguments.resume, watch=progress)
    print()
    print_summary(folder / "results.json")
    first = next((path.parent for path in sorted(folder.glob("*/metrics.jsonl"))), folder)
    print(f"\nEverything is in {folder}. Where to look next:")
    page = folder / "report.html"
    print(f"  {page}    every curve, and rollouts to read" if page.exists() else f"  calibadv report {folder}")
    print(f"  calibadv trajectories {first} --best    what an agent wrote, turn by turn")


def run_pretrain(arguments: argparse.Namespace) -> None:
    """Train the base policy."""
    require_packages("torch", "transformers", extra="train", what="pretraining")
    from calibadv.lab.base_policy.presets import PRESETS
    from calibadv.lab.base_policy.pretrain import pretrain

    if arguments.pretrain_preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.pretrain_preset}")
    config = PRESETS[arguments.pretrain_preset].pretrain
    given = {"output_dir": arguments.pretrain_out, "seed": arguments.seed, "steps": arguments.pretrain_steps}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "output_dir" in changes:
        changes["output_dir"] = str(changes["output_dir"])
    config = replace(config, **changes)
    check_new_folder(Path(config.output_dir))  # at the end of many minutes it would be too late to ask
    folder = pretrain(config)
    print(f"Done: {folder}\n  calibadv lab probe {folder}    does it read?")


def run_probe(arguments: argparse.Namespace) -> None:
    """Probe a policy."""
    check_policy_folder(arguments.policy, option="POLICY_DIR")
    require_packages("torch", "transformers", "tantivy", extra="train", what="the probe")
    from calibadv.lab import load_policy
    from calibadv.lab.base_policy.probe import ProbeConfig, probe, probe_table

    given = {"num_questions": arguments.questions, "temperature": arguments.temperature}
    config = ProbeConfig(**{name: value for name, value in given.items() if value is not None})
    result = probe(arguments.policy or load_policy(), config=config)
    print(json.dumps(result, indent=1) if arguments.json else probe_table(result))


def run_world(arguments: argparse.Namespace) -> None:
    """Write a world."""
    from calibadv.lab.world import LabWorld

    folder = arguments.world_out
    check_new_folder(folder)
    world = LabWorld.make(arguments.seed, **({"size": arguments.size} if arguments.size else {}))
    write_world(world, folder)
    print(f"World {arguments.seed}: {len(world.documents)} documents and their questions in {folder}")


def check_policy_folder(folder: Path | None, *, option: str) -> None:
    """Refuse a policy that is not there, before a library looks for it on the network."""
    if folder is not None and not (folder / "config.json").is_file():
        raise ConfigError(f"{option} {folder} is not the folder of a policy: it has no config.json")


def check_new_folder(folder: Path | None) -> None:
    """Refuse an output folder that holds something already."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} is not an empty folder; name a new one")
