"""``results.json`` of a lab: its settings and arms from the start, the figures of each run and the verdict at the end.

Commands that are given a lab's folder find its runs here, whether the lab has ended, was interrupted or still runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from calibadv.data.run_files import EVALUATIONS, METRICS, RESULTS, read_metrics
from calibadv.errors import CalibAdvError, ConfigError
from calibadv.io.files import read_json, write_json
from calibadv.io.provenance import versions
from calibadv.lab.config import LabConfig
from calibadv.lab.jobs import Job
from calibadv.lab.verdict import RunScores, verdict

FORMAT = 2
WINDOW = 10
"""Batches over which a curve is averaged to tell whether it collapsed."""
MAY_CHANGE = ("out", "workers")
"""Settings that a resumed lab may be given."""


def write_results(lab: LabConfig, jobs: Sequence[Job], out: Path) -> None:
    """Write what is known now: one entry per arm and seed, and a verdict over the runs that have finished."""
    arms = [job.arm.name for job in jobs]
    finished = [job for job in jobs if job.finished]
    results = {
        "format": FORMAT,
        "date": f"{datetime.now():%Y-%m-%d}",
        "versions": versions(("calibadv", "torch", "transformers", "trl")),
        "lab": asdict(lab) | {"out": None},
        "default_arm": next((name for name in arms if name.startswith("calibadv")), arms[0]),
        "verdict": verdict(
            [tested(job) for job in finished],
            preset=lab.preset,
            missing=[f"{job.arm.name} seed {job.seed}" for job in jobs if not job.finished],
        ),
        "arms": [entry(job, out) for job in jobs],
    }
    write_json(out / RESULTS, results, indent=1)


def recorded_config(folder: Path, given: LabConfig) -> LabConfig:
    """The settings of the lab in a folder, which is to be resumed; ``given`` may not contradict them."""
    try:
        settings = read_json(folder / RESULTS)["lab"]
    except (CalibAdvError, OSError, KeyError):
        raise ConfigError(f"--resume: {folder} holds no lab (its {RESULTS} is missing or older); start one") from None
    recorded, default = LabConfig(**settings), LabConfig()
    for name in (field.name for field in fields(LabConfig) if field.name not in MAY_CHANGE):
        now, before = getattr(given, name), getattr(recorded, name)
        if now not in (before, getattr(default, name)):
            raise ConfigError(
                f"--resume: the lab in {folder} has --{name.replace('_', '-')} {before}, not {now}; resume it with its "
                "own settings, or start a new lab in a new folder (--out)"
            )
    return LabConfig(**settings | {"out": folder, "workers": given.workers})


def entry(job: Job, out: Path) -> dict[str, Any]:
    """One run: where it is, and what it achieved if it has finished."""
    place = {"name": job.arm.name, "seed": job.seed, "run_dir": str(job.folder.relative_to(out))}
    if not job.finished:
        return place | {"status": "failed" if job.failed else "unfinished", "log": job.log.name}
    metrics, tests = read_metrics(job.folder / METRICS), read_metrics(job.folder / EVALUATIONS)
    before, after = tests[0], tests[-1]
    reward_curve = [line["reward"] for line in metrics]
    return place | {
        "status": "finished",
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
        # Not the clock of the process: a run that was stopped and continued took as long as its batches.
        "seconds": round(before["seconds"] + sum(line["seconds_step"] for line in metrics), 1),
    }


def tested(job: Job) -> RunScores:
    """The scores of a finished run's test, for the verdict."""
    tests = read_metrics(job.folder / EVALUATIONS)
    return RunScores(
        arm=job.arm.name,
        seed=job.seed,
        before=tests[0]["f1_by_question"],
        after=tests[-1]["f1_by_question"],
        collapsed=collapsed([line["reward"] for line in read_metrics(job.folder / METRICS)]),
        other_questions=any(override.startswith(("data.", "evaluation.")) for override in job.arm.overrides),
    )


def collapsed(reward_curve: Sequence[float]) -> bool:
    """Whether training ended below half of what it had reached: means over `WINDOW` batches, last against best.

    >>> collapsed([0.5] * 10 + [0.6] * 10), collapsed([0.6] * 10 + [0.1] * 10)
    (False, True)
    """
    window = min(WINDOW, max(1, len(reward_curve) // 2))
    means = [sum(reward_curve[i : i + window]) / window for i in range(max(0, len(reward_curve) - window + 1))]
    return bool(means) and means[-1] < 0.5 * max(means)
