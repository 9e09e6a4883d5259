"""``calibadv eval``: evaluate a model, keep every finished rollout, continue after an interruption."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.eval.judge_options import add_judge_options, judge_of
from calibadv.cli.eval.target import Plan, add_target_options, check_packages, plan_of
from calibadv.cli.options import new_command
from calibadv.errors import CalibAdvError, ConfigError

if TYPE_CHECKING:
    from calibadv.evaluation import EvalResult

INTERRUPTED = 130

EPILOG = """\
targets
  a config (.toml)      its model, questions and retriever
  a run's folder        the model that the run trained; --checkpoint for another one
  a model               a folder, a .gguf file, a hub id or package:NAME; needs --data and --retriever

examples
  calibadv eval runs/lab                                the trained model of a run, on its data.test
  calibadv eval runs/lab --checkpoint base              the model it started from
  calibadv eval runs/lab --checkpoint checkpoint-20     one of its checkpoints
  calibadv eval configs/lab.toml --limit 50 --samples 4
  calibadv eval runs/lab --temperature 0                greedy
  calibadv eval Qwen/Qwen2.5-3B-Instruct --data data/test.parquet --retriever http://127.0.0.1:8000
  calibadv eval my/model --data nq,bamboogle --source my/flashrag --retriever corpora/wiki/bm25 --out runs/mine
  calibadv eval gpt-x --engine openai --model-url https://host/v1 --data data --retriever corpora/wiki/bm25

  calibadv eval diff runs/a runs/b                      paired comparison of two evaluations
  calibadv eval score traces.jsonl.gz                   figures for rollouts that exist already

Finished rollouts are on disk as they finish: the same command with the same --out goes on where it stopped. Writes
results.json, questions.jsonl (one line a rollout), trajectories.jsonl.gz and manifest.json (hashes of model, index,
prompt and questions; sampling; versions) into --out. Only what the model itself wrote is graded.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "eval",
        help="evaluate a model on questions; `eval diff` and `eval score` compare and score",
        description="Evaluate a model: of a config, of a run, or any other. See also: calibadv eval diff, eval score.",
        epilog=EPILOG,
    )
    add_target_options(parser)
    add_judge_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results; an unfinished one is continued"
    )
    add_format_options(parser)
    parser.set_defaults(command=run)


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """``--format`` and ``--json``."""
    parser.add_argument(
        "--format", choices=("text", "markdown", "json", "latex"), default="text", help="of the table that is printed"
    )
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate and write everything down."""
    plan = plan_of(arguments)
    judge = judge_of(arguments)
    check_packages(plan)
    folder = arguments.out or free_folder(arguments.target, split=arguments.split)
    check_folder(folder)
    with stoppable(folder):
        complete = play(plan, folder, judge=judge)
    show_results(folder, format=arguments.format)
    if complete:
        print(f"{folder} was complete already; nothing was played", file=sys.stderr)


def play(plan: Plan, folder: Path, *, judge: Any = None) -> bool:
    """Load everything, play what is missing, and write it; True when nothing was missing."""
    from calibadv.evaluation import Journal, evaluate, write_evaluation
    from calibadv.evaluation.folder import FINISHED, claim_folder
    from calibadv.models.open_policy import open_policy
    from calibadv.retrieval.open import open_retriever

    retriever = open_retriever(plan.config.retrieval, top_k=plan.rollout.top_k)
    with open_policy(plan.model, threads=plan.config.training.threads) as opened:
        manifest = plan.manifest(index=index_of(retriever), tokenizer=opened.tokenizer)
        if judge is not None:
            manifest["judge"] = judge.identity()
        if claim_folder(folder, manifest=manifest):
            return True
        with Journal(folder / FINISHED) as journal:
            if journal.finished:
                print(f"{len(journal.finished)} rollouts were finished before; going on", file=sys.stderr)
            result = evaluate(
                plan.questions,
                policy=opened.policy,
                retriever=retriever,
                tokenizer=opened.tokenizer,
                config=plan.rollout,
                samples=plan.config.evaluation.samples,
                seed=plan.config.training.seed,
                score=plan.config.reward.score,
                progress=progress_line(),
                journal=journal,
            )
    if judge is not None:
        result = judge.judge(result, seed=plan.config.training.seed, progress=progress_line("judged"))
    write_evaluation(result, folder, manifest=manifest)
    explain_silence(result)
    return False


def index_of(retriever: Any) -> dict[str, Any]:
    """What identifies a retriever's index."""
    manifest = {name: value for name, value in retriever.manifest().items() if name != "stop_words"}
    return manifest | {"version": str(getattr(retriever, "version", "") or "")}


def show_results(folder: Path, *, format: str) -> None:
    """The figures of a complete evaluation."""
    from calibadv.evaluation.folder import RESULTS, read_results
    from calibadv.evaluation.tables import render, summary_table

    if format == "json":
        print((folder / RESULTS).read_text(encoding="utf-8"), end="")
        return
    print(render(summary_table(read_results(folder)), format=format, caption=f"Evaluation {folder.name}"))
    if format == "text":
        print(f"95 % bootstrap intervals over questions; counts are per rollout. Written to {folder}")


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Whatever ends the evaluation early, say what is kept and how to go on. A second Ctrl-C ends it at once."""
    before = _second_interrupt_ends(folder)
    try:
        yield
    except (CalibAdvError, OSError):
        say_what_is_kept(folder)
        raise
    except KeyboardInterrupt:
        before = None  # the handler stays: a second Ctrl-C must not wait for the process to find its end
        say_what_is_kept(folder)
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def say_what_is_kept(folder: Path) -> None:
    """One line about the rollouts on disk, if there are any."""
    from calibadv.evaluation.folder import FINISHED

    try:
        with (folder / FINISHED).open("rb") as file:
            number = sum(1 for _ in file) - 1
    except OSError:
        return
    if number > 0:
        print(
            f"\n{number} finished rollouts are kept in {folder / FINISHED}; the same command with --out {folder} goes "
            "on from there",
            file=sys.stderr,
        )


def _second_interrupt_ends(folder: Path) -> Any:
    """The first Ctrl-C interrupts; the second does not wait for searches under way. Gives the handler before it."""
    interrupted = False

    def handle(number: int, frame: Any) -> None:
        nonlocal interrupted
        if interrupted:
            os.write(2, f"\ncalibadv: stopped at once; what was finished is in {folder}\n".encode())
            os._exit(INTERRUPTED)
        interrupted = True
        raise KeyboardInterrupt

    try:
        return signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        return None


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not an evaluation's, before anything is loaded."""
    from calibadv.evaluation.folder import MANIFEST

    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise ConfigError(f"the output folder {folder} is not empty; name another one with --out")


def free_folder(target: str, *, split: str) -> Path:
    """The first unused ``eval-SPLIT-N`` inside the run's folder, or ``runs/NAME-eval-SPLIT-N`` for anything else."""
    path = Path(target)
    if path.is_dir() and (path / "config.toml").is_file():
        stem = path / f"eval-{split}"
    else:
        name = path.stem if path.suffix in (".toml", ".gguf") else path.name
        stem = Path("runs") / f"{name.removeprefix('package:') or 'model'}-eval-{split}"
    number = 1
    while (folder := stem.with_name(f"{stem.name}-{number}")).exists():
        number += 1
    return folder


def progress_line(what: str = "rollouts") -> Callable[[int, int], None] | None:
    """A bar with how many are done and the time left, on one line of a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    start = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal first
        first = done if first is None else first  # what an earlier session finished took no time in this one
        spent = time.monotonic() - start
        left = f", {spent / (done - first) * (total - done):.0f} s left" if done > first else ""
        filled = 24 * done // total
        bar = "#" * filled + "." * (24 - filled)
        end = "\n" if done == total else ""
        print(f"\r[{bar}] {done}/{total} {what}{left}   ", end=end, file=sys.stderr, flush=True)

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
        "trained by reinforcement alone: start from one that was fine-tuned on trajectories (calibadv sft makes one), "
        "or change rollout.prompt.",
        file=sys.stderr,
    )


def as_json_text(value: Any) -> str:
    """For ``--json``."""
    return json.dumps(value, indent=2, ensure_ascii=False)
