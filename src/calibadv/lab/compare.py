"""`run_lab`: train several arms from the same base policy on the same questions, side by side, and compare them.

Every arm and seed is one run of `calibadv.runs.train.train`, the code that trains any model, in a process of its own
with one thread (two arms on two threads each are slower than two arms on one thread each). The parent follows their
``metrics.jsonl`` and ``eval.jsonl``, then writes ``results.json`` and the plots.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calibadv.config import RunConfig
from calibadv.errors import CalibAdvError, ConfigError
from calibadv.lab import load_policy
from calibadv.lab.arms import Arm, parse_arms
from calibadv.lab.questions import write_world
from calibadv.lab.world import LabWorld

WINDOW = 10
"""Batches over which a curve is averaged to tell whether it collapsed."""

RUN_PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "training": {
            "steps": 80,
            "questions_per_batch": 12,
            "num_rollouts": 5,
            "mini_batches": 2,
            "epochs": 1,
            "learning_rate": 4e-4,
            "warmup_steps": 4,
        },
    },
    "aggressive": {
        "training": {
            "steps": 360,
            "questions_per_batch": 12,
            "num_rollouts": 5,
            "mini_batches": 4,
            "epochs": 3,
            "learning_rate": 5e-4,
            "warmup_steps": 12,
        },
    },
}
"""Named settings. "aggressive" makes twelve updates from every batch, most of them off-policy."""

DEFAULT_ARMS = {"default": "grpo,calibadv", "aggressive": "grpo,calibadv,calibadv:lambda=0.5,calibadv:lambda=0.25"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRun:
    """What `run_lab` does; one field per option of ``calibadv lab``."""

    preset: str = "default"
    """Settings of the runs: "default" or "aggressive"."""
    arms: str | None = None
    """Comma-separated arms, see `calibadv.lab.arms`; not set: the preset's."""
    steps: int | None = None
    """Optimizer steps of each run; not set: the preset's."""
    seeds: int = 1
    """Runs per arm, with training seeds 0, 1, ..."""
    out: Path | None = None
    """Folder for everything; not set: ``runs/lab-DATE-TIME``."""
    model: str | None = None
    """Base policy; not set: the packaged one."""
    world_seed: int = 1001
    """The encyclopedia. The packaged policy has seen neither this nor any other fixed one."""
    world_size: int = 300
    """Its number of articles."""
    test_questions: int = 300
    """Questions of the test split, each played once at temperature 1, before and after."""
    workers: int | None = None
    """Runs at the same time; not set: one per CPU."""

    def __post_init__(self) -> None:
        if self.preset not in RUN_PRESETS:
            raise ConfigError(f"--preset must be one of {', '.join(RUN_PRESETS)}, got {self.preset!r}")
        for name in ("steps", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} must be >= 1, got {value}")
        for name in ("seeds", "test_questions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}")

    @property
    def parsed_arms(self) -> tuple[Arm, ...]:
        """The arms to train."""
        return parse_arms(DEFAULT_ARMS[self.preset] if self.arms is None else self.arms)


@dataclass(slots=True, kw_only=True)
class Job:
    """One arm with one seed, while it runs."""

    arm: Arm
    seed: int
    folder: Path
    num_steps: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    seconds: float = 0.0
    step: int = 0
    reward: float | None = None
    f1_test: float | None = None

    @property
    def log(self) -> Path:
        """What the run printed."""
        return beside(self.folder, ".log")

    @property
    def config(self) -> Path:
        """The run's configuration."""
        return beside(self.folder, ".toml")

    @property
    def failed(self) -> bool:
        """The process ended with an error."""
        return self.process is not None and self.process.poll() not in (None, 0)

    def refresh(self) -> None:
        """Read how far it is."""
        lines = read_lines(self.folder / "metrics.jsonl")
        if lines:
            self.step, self.reward = lines[-1]["step"], lines[-1]["reward"]
        evaluations = read_lines(self.folder / "eval.jsonl")
        if evaluations:
            self.f1_test = evaluations[-1]["f1"]


Watch = Callable[[Sequence[Job]], None]


def run_lab(lab: LabRun, *, watch: Watch | None = None) -> Path:
    """Train all arms and seeds; returns the folder with ``results.json``, the runs and the figures.

    ``watch`` is called about twice a second with all jobs. A run that fails has no figures, but is named in the
    results; once the others are done, `CalibAdvError` shows the last lines of its log.
    """
    out = lab.out or Path("runs") / f"lab-{datetime.now():%Y%m%d-%H%M%S}"
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty; name a new folder")
    world = LabWorld.make(lab.world_seed, size=lab.world_size)
    jobs = [
        Job(arm=arm, seed=seed, folder=out / f"{arm.folder}-seed{seed}", num_steps=0)
        for seed in range(lab.seeds)
        for arm in lab.parsed_arms
    ]
    configs = [lab_config(lab, job.arm, seed=job.seed, world_dir=out / "world", folder=job.folder) for job in jobs]
    write_world(world, out / "world")
    for job, config in zip(jobs, configs, strict=True):
        job.num_steps = config.training.steps
        job.config.write_text(config.to_toml(), encoding="utf-8")
    play(jobs, workers=lab.workers or os.cpu_count() or 1, watch=watch)
    results = write_results(lab, jobs, out)
    if not all(job.failed for job in jobs):
        draw(results)
    check_jobs(jobs)
    return out


def beside(folder: Path, ending: str) -> Path:
    """The file of that ending next to a folder whose name may hold dots.

    >>> beside(Path("lambda=0.25-seed0"), ".log").name
    'lambda=0.25-seed0.log'
    """
    return folder.with_name(folder.name + ending)


def lab_config(lab: LabRun, arm: Arm, *, seed: int, world_dir: Path, folder: Path) -> RunConfig:
    """The configuration of one run: the preset, then the arm."""
    preset = RUN_PRESETS[lab.preset]
    updates = preset["training"]["mini_batches"] * preset["training"]["epochs"]
    steps = preset["training"]["steps"] if lab.steps is None else -(-lab.steps // updates) * updates
    sections = {
        "model": {"path": str(lab.model or load_policy()), "device": "cpu"},
        "data": {
            "train": [str(world_dir / "questions.train.jsonl")],
            "test": [str(world_dir / "questions.test.jsonl")],
        },
        "retrieval": {"corpus": str(world_dir / "corpus.jsonl")},
        "rollout": {"prompt": "question", "top_k": 2, "max_searches": 4, "max_turn_tokens": 80},
        "training": {
            "lr_schedule": "constant",
            "betas": [0.9, 0.95],
            "micro_batch": 10,
            "save_every": 0,
            "threads": 1,
            **preset["training"],
            "steps": steps,
            "warmup_steps": min(preset["training"]["warmup_steps"], steps),
            "max_batches_without_signal": steps,  # a collapse is a result of the lab, to be played to its end
            "eval_every": steps,
            "seed": seed,
            "output": str(folder),
        },
        "evaluation": {"limit": lab.test_questions},
    }
    return RunConfig.from_mapping(sections, overrides=arm.overrides)


def play(jobs: Sequence[Job], *, workers: int, watch: Watch | None) -> None:
    """Run the jobs, ``workers`` at a time; all are ended when the caller is interrupted."""
    waiting = list(jobs)
    running: list[Job] = []
    try:
        with terminated_as_interrupted():
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    start(job)
                    running.append(job)
                time.sleep(0.5)
                ended = [job for job in running if job.process is not None and job.process.poll() is not None]
                for job in running:
                    job.refresh()
                    job.seconds = time.monotonic() - job.started
                if watch is not None:
                    watch(jobs)
                running = [job for job in running if job not in ended]
    finally:
        for job in running:
            if job.process is not None and job.process.poll() is None:
                job.process.terminate()
                job.process.wait()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM like Ctrl-C, so that no run is left behind (in the main thread; elsewhere it cannot be caught)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise `CalibAdvError` with the end of their logs if runs failed."""
    failed = [job for job in jobs if job.failed]
    if failed:
        logs = "\n".join(f"the end of {job.log}:\n{tail(job.log)}" for job in failed)
        raise CalibAdvError(f"{len(failed)} of {len(jobs)} runs failed; the others are in the results.\n{logs}")


def start(job: Job) -> None:
    """Start one run as ``calibadv train`` with one thread."""
    command = [sys.executable, "-m", "calibadv", "train", str(job.config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with job.log.open("wb") as log:
        job.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    job.started = time.monotonic()


def write_results(lab: LabRun, jobs: Sequence[Job], out: Path) -> Path:
    """Write ``results.json``: one entry per arm and seed; runs that failed are named apart."""
    results = {
        "format": 1,
        "preset": lab.preset,
        "world_seed": lab.world_seed,
        "date": f"{datetime.now():%Y-%m-%d}",
        "versions": {name: version(name) for name in ("calibadv", "torch", "transformers", "trl")},
        "arms": [result_of(job, out) for job in jobs if not job.failed],
        "failed_runs": [{"name": job.arm.name, "seed": job.seed, "log": job.log.name} for job in jobs if job.failed],
    }
    path = out / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def draw(results: Path) -> None:
    """Every plot as PNG and SVG in ``figures/``, and one page with all of them."""
    from calibadv.report.figures import draw_lab
    from calibadv.report.page import write_page

    draw_lab(results, results.parent / "figures")
    write_page(results.parent)


def result_of(job: Job, out: Path) -> dict[str, Any]:
    """What one run achieved."""
    metrics, evaluations = read_lines(job.folder / "metrics.jsonl"), read_lines(job.folder / "eval.jsonl")
    before, after = evaluations[0], evaluations[-1]
    reward_curve = [line["reward"] for line in metrics]
    return {
        "name": job.arm.name,
        "seed": job.seed,
        "f1_before": before["f1"],
        "f1_after": after["f1"],
        "f1_before_se": before["f1_se"],
        "f1_after_se": after["f1_se"],
        "format_before": before["format_valid"],
        "format_after": after["format_valid"],
        "f1_curve": [line["f1"] for line in metrics],
        "reward_curve": reward_curve,
        "entropy_curve": [line["entropy"] for line in metrics],
        "steps": [line["step"] for line in metrics],
        "collapsed": collapsed(reward_curve),
        "seconds": round(job.seconds, 1),
        "run_dir": str(job.folder.relative_to(out)),
    }


def collapsed(reward_curve: Sequence[float]) -> bool:
    """Whether training ended below half of what it had reached: means over `WINDOW` batches, last against best.

    >>> collapsed([0.5] * 10 + [0.6] * 10), collapsed([0.6] * 10 + [0.1] * 10)
    (False, True)
    """
    window = min(WINDOW, max(1, len(reward_curve) // 2))
    means = [sum(reward_curve[i : i + window]) / window for i in range(max(0, len(reward_curve) - window + 1))]
    return bool(means) and means[-1] < 0.5 * max(means)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file that may be growing."""
    return list(_complete_lines(path)) if path.exists() else []


def _complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        yield json.loads(line)


def tail(path: Path, *, num_lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
