"""``calibadv eval``: play the test questions with a base model or a trained one, and say how sure the figures are."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import add_set_option, new_command, positive, read_run_config, require_packages
from calibadv.cli.tables import print_table
from calibadv.errors import ConfigError, RetrieverUnavailable

if TYPE_CHECKING:
    from calibadv.config import RunConfig
    from calibadv.evaluation import EvalResult
    from calibadv.training.load import ModelConfig

EPILOG = """\
examples
  calibadv eval runs/lab                                the trained model of a run, on its data.test
  calibadv eval runs/lab --checkpoint base              the model it started from
  calibadv eval runs/lab --checkpoint checkpoint-20     one of its checkpoints
  calibadv eval configs/lab.toml --limit 50 --samples 4
  calibadv eval runs/lab --temperature 0                greedy

Writes results.json, questions.jsonl (one line a rollout), trajectories.jsonl.gz and manifest.json (hashes of model,
index, prompt and questions; versions) into --out. Only what the model itself wrote is graded.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "eval",
        help="evaluate a model on the questions of a config or of a run",
        description="Evaluate a model on the questions of a config or of a run.",
        epilog=EPILOG,
    )
    parser.add_argument("target", type=Path, metavar="CONFIG|RUN_DIR", help="a .toml file or the folder of a run")
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help='a model folder, a checkpoint of the run by name, or "base" (default: the model of the config or run)',
    )
    parser.add_argument("--split", choices=("test", "train"), default="test", help="which questions (default: test)")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N questions, drawn with data.seed")
    parser.add_argument("--samples", type=positive, metavar="N", help="rollouts per question")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    add_set_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate and write everything down."""
    config = config_of(arguments)
    model_config = model_of(config, target=arguments.target, checkpoint=arguments.checkpoint)
    require_packages("torch", "transformers", extra="train", what="evaluation")
    from calibadv.evaluation.output import as_json, claim_folder, table, write_evaluation, write_finished

    folder = arguments.out or free_folder(arguments.target, split=arguments.split)
    claim_folder(folder)
    try:
        result, manifest = play(config, model_config, split=arguments.split, progress=progress_line())
    except RetrieverUnavailable as error:
        if error.trajectories:
            path = write_finished(error.trajectories, folder)
            print(f"{len(error.trajectories)} finished rollouts were kept in {path}", file=sys.stderr)
        raise
    write_evaluation(result, folder, manifest=manifest)
    if arguments.json:
        print(json.dumps(as_json(result), indent=2))
    else:
        print_table(*table(result))
        print(f"95 % bootstrap intervals over questions; counts are per rollout. Written to {folder}")
    explain_silence(result)


def config_of(arguments: argparse.Namespace) -> RunConfig:
    """The config with the command's own options put in as overrides."""
    overrides = list(arguments.overrides)
    for name in ("limit", "samples", "temperature"):
        if getattr(arguments, name) is not None:
            overrides.append(f"evaluation.{name}={getattr(arguments, name)}")
    return read_run_config(arguments.target, overrides=overrides)


def model_of(config: RunConfig, *, target: Path, checkpoint: str | None) -> ModelConfig:
    """Which model is evaluated: the config's, the one a run trained, or the checkpoint asked for."""
    if checkpoint == "base" or (checkpoint is None and not target.is_dir()):
        return config.model
    if checkpoint is not None:
        candidates = [target / checkpoint, Path(checkpoint)] if target.is_dir() else [Path(checkpoint)]
        folder = next((path for path in candidates if path.exists()), None)
        if folder is None:
            raise ConfigError(f"--checkpoint {checkpoint}: no such folder, neither in {target} nor here")
    else:
        numbered = (path for path in target.glob("checkpoint-*") if path.name.rsplit("-", 1)[1].isdecimal())
        saved = sorted(numbered, key=lambda path: int(path.name.rsplit("-", 1)[1]))
        folder = target / "model" if (target / "model").is_dir() else (saved[-1] if saved else None)
        if folder is None:
            raise ConfigError(f"{target} holds no trained model yet; --checkpoint base evaluates what it started from")
    return replace(config.model, path=folder.absolute(), gguf_file=None)


def play(
    config: RunConfig, model_config: ModelConfig, *, split: Any, progress: Callable[[int, int], None] | None
) -> tuple[EvalResult, dict[str, Any]]:
    """Load everything and evaluate; the result comes with its manifest."""
    from calibadv.config import load_split
    from calibadv.evaluation import evaluate, rollout_config_of
    from calibadv.retrieval.settings import open_retriever
    from calibadv.training.load import load_policy

    rollout = rollout_config_of(config.evaluation, config.rollout)
    questions = load_split(config.data, split, limit=config.evaluation.limit)
    retriever = open_retriever(config.retrieval, top_k=rollout.top_k)
    policy, tokenizer = load_policy(model_config, threads=config.training.threads)
    result = evaluate(
        questions,
        policy=policy,
        retriever=retriever,
        tokenizer=tokenizer,
        config=rollout,
        samples=config.evaluation.samples,
        seed=config.training.seed,
        score=config.reward.score,
        progress=progress,
    )
    files = getattr(config.data, split)
    return result, manifest_of(config, model_config, files=files, index=retriever.manifest())


def manifest_of(config: RunConfig, model_config: ModelConfig, *, files: Any, index: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on, with hashes."""
    from calibadv.dialogue.prompt import PROMPTS
    from calibadv.evaluation.output import file_sha256, text_sha256, versions
    from calibadv.training.load import fingerprint

    return {
        "model": fingerprint(model_config),
        "index": {name: value for name, value in index.items() if name != "stop_words"},
        "prompt": {"name": config.rollout.prompt, "sha256": text_sha256(PROMPTS[config.rollout.prompt].text)},
        "questions": {path.name: file_sha256(path) for path in files},
        "config": config.effective() | {"model": {**config.effective()["model"], "path": str(model_config.path)}},
        "versions": versions(),
    }


def free_folder(target: Path, *, split: str) -> Path:
    """The first unused ``eval-SPLIT-N`` inside the run's folder, or ``runs/NAME-eval-SPLIT-N`` for a config."""
    stem = target / f"eval-{split}" if target.is_dir() else Path("runs") / f"{target.stem}-eval-{split}"
    number = 1
    while (folder := stem.with_name(f"{stem.name}-{number}")).exists():
        number += 1
    return folder


def progress_line() -> Callable[[int, int], None] | None:
    """Rollouts done and time left, on one line of a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - start) / done * (total - done)
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} rollouts, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)

    return show


def explain_silence(result: EvalResult) -> None:
    """Say in plain words what figures of 0 mean."""
    estimates = result.overall.estimates
    if estimates["format_valid"].mean > 0:
        return
    answered = estimates["answered"].mean
    print(
        "\nNo rollout has a valid format (think, search, information, ..., think, answer); "
        f"{answered:.0%} hold an answer at all. A model that was never taught these tags earns no reward and cannot be "
        "trained by reinforcement alone: start from one that was fine-tuned on trajectories, or change rollout.prompt.",
        file=sys.stderr,
    )
