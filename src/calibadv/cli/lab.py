"""``calibadv lab``: the whole method on a laptop, and the lab's tools (pretrain, probe, world)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import Json, Positive, check_new_folder, command, epilogue, fill, print_json, takes
from calibadv.cli.train import PACKAGES
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.lab.base_policy.presets import PRESETS, PretrainConfig
from calibadv.lab.config import LabConfig
from calibadv.lab.questions import write_world
from calibadv.lab.world import LabWorld

EXAMPLES = """\
  calibadv lab                                GRPO and CalibAdv, in minutes
  calibadv lab --steps 10 --seeds 1           a quick look
  calibadv lab --arms grpo,calibadv,calibadv:lambda=0.5     other arms
  calibadv lab --preset aggressive --seeds 3  settings in which training can fail
  calibadv lab --resume                       continue an interrupted lab
  calibadv lab world --out runs/world         encyclopedia and questions as files
  calibadv lab probe                          does the base policy really read?
  calibadv lab pretrain                       make the base policy from scratch
"""
PRETRAIN_EXAMPLES = "  calibadv lab pretrain --out runs/lab-base --seed 1"
PROBE_EXAMPLES = "  calibadv lab probe\n  calibadv lab probe runs/lab-base --questions 400"
WORLD_EXAMPLES = "  calibadv lab world --out runs/world --seed 7\n  calibadv train configs/lab.toml"

Resume = Annotated[bool, Parameter(help="Continue the lab in that folder: finished runs are kept.", show_default=False)]

app = command("lab", examples=EXAMPLES)


@app.default
@takes(LabConfig)
def lab(*, resume: Resume = False, **options: Any) -> None:
    """Train a tiny search agent in a fictional encyclopedia, once per algorithm, and compare."""
    model, out = options["model"], options["out"]
    check_policy_folder(None if model is None else Path(model), option="--model")
    if not resume:
        check_new_folder(out)
    config = fill(LabConfig, options)
    require_packages(*PACKAGES, "matplotlib", extra="all", what="the lab")
    from calibadv.lab.compare import run_lab
    from calibadv.lab.progress import LabProgress, summary

    with LabProgress() as progress:
        folder = run_lab(config, resume=resume, watch=progress)
    print(f"\n{summary(folder)}")
    page = folder / "report.html"
    print(f"\nEverything is in {folder}. Where to look next:")
    print(f"  {page}    every curve, and rollouts to read" if page.exists() else f"  calibadv report {folder}")
    print(f"  calibadv trajectories {folder} --best    what an agent wrote, turn by turn")


@app.command(help_epilogue=epilogue(PRETRAIN_EXAMPLES))
@takes(PretrainConfig, "output_dir", "seed", "steps", unset=True, output_dir="out")
def pretrain(
    *, preset: Annotated[str, Parameter(help=f"One of {', '.join(PRESETS)}.")] = "default", **options: Any
) -> None:
    """Train the lab's base policy from scratch: 10 to 20 minutes on one core for the default preset."""
    require_packages("torch", "transformers", extra="train", what="pretraining")
    from calibadv.lab.base_policy.pretrain import pretrain

    if preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {preset}")
    given = {name: value for name, value in options.items() if value is not None}
    config = replace(PRESETS[preset](), **given)
    check_new_folder(Path(config.output_dir))  # at the end of many minutes it would be too late to ask
    folder = pretrain(config)
    print(f"Done: {folder}\n  calibadv lab probe {folder}    does it read?")


@app.command(help_epilogue=epilogue(PROBE_EXAMPLES))
def probe(
    policy: Annotated[Path | None, Parameter(help="Folder of a policy (default: the packaged one).")] = None,
    /,
    *,
    questions: Annotated[Positive, Parameter(help="Test questions of each world.")] = None,
    temperature: Annotated[float | None, Parameter(help="Of the sampling; 0 is greedy.")] = None,
    json: Json = False,
) -> None:
    """Compare a policy's F1 on worlds it knows, on worlds it never saw, and with random documents."""
    check_policy_folder(policy, option="POLICY")
    require_packages("torch", "transformers", "tantivy", extra="train", what="the probe")
    from calibadv.lab import load_policy
    from calibadv.lab.base_policy import probe as probing

    given: dict[str, Any] = {"num_questions": questions, "temperature": temperature}
    config = probing.ProbeConfig(**{name: value for name, value in given.items() if value is not None})
    result = probing.probe(policy or load_policy(), config=config)
    if json:
        print_json(result)
    else:
        print(probing.probe_table(result))


@app.command(help_epilogue=epilogue(WORLD_EXAMPLES))
@takes(LabConfig, "world_seed", "world_size", world_seed="seed", world_size="size")
def world(*, out: Annotated[Path, Parameter(metavar="DIR", help="New folder.")], **options: Any) -> None:
    """Write a fictional encyclopedia and its questions: corpus.jsonl, questions.train.jsonl, questions.test.jsonl."""
    check_new_folder(out)
    made = LabWorld.make(options["world_seed"], size=options["world_size"])
    write_world(made, out)
    print(f"World {options['world_seed']}: {len(made.documents)} documents and their questions in {out}")


def check_policy_folder(folder: Path | None, *, option: str) -> None:
    """Refuse a policy that is not there, before a library looks for it on the network."""
    if folder is not None and not (folder / "config.json").is_file():
        raise ConfigError(f"{option} {folder} is not the folder of a policy: it has no config.json")
