"""Does training with vLLM in the process learn as training with the model itself does?

    python benchmarks/vllm_training.py [--batches 12] [--seeds 3] [--workers 1] [--folder DIR]

The lab's policy learns with both engines from the same seeds, through ``calibadv train`` with the laboratory's settings
(12 questions x 5 rollouts a batch, two updates each). Printed are the mean reward of every batch, its spread over the
seeds, the gap between vLLM's and the trainer's log-probabilities, and where the time of a batch went. Runs that are
complete in DIR are not made again. Needs vLLM (scripts/test-vllm makes an environment with it).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from calibadv.data.run_files import METRICS, read_metrics
from calibadv.lab import LabWorld
from calibadv.lab.arms import parse_arms
from calibadv.lab.config import LabConfig, arm_config
from calibadv.lab.jobs import Job, check_jobs, play
from calibadv.lab.questions import write_world

ENGINES = {
    "transformers": ["model.engine=transformers"],
    "vllm": ["model.engine=vllm", "model.engine_args=['enforce_eager=true']", "model.max_context=1024"],
}
Runs = dict[str, list[list[dict[str, Any]]]]


def make_job(engine: str, *, seed: int, batches: int, folder: Path) -> Job:
    """One run of the laboratory with an engine."""
    lab = LabConfig(steps=2 * batches)
    (arm,) = parse_arms("calibadv")
    run = folder / f"{engine}-seed{seed}"
    config = arm_config(lab, arm, seed=seed, world_dir=folder, folder=run)
    sections = config.effective()
    sections["training"]["eval_every"] = 0
    changed = type(config).from_mapping(sections, overrides=ENGINES[engine])
    return Job(arm=arm, seed=seed, folder=run, num_steps=2 * batches, toml=changed.to_toml())


def train(jobs: list[Job], *, workers: int) -> None:
    """Make the runs that are not complete."""
    for job in jobs:
        job.config.write_text(job.toml, encoding="utf-8")
    play(jobs, workers=workers)
    check_jobs(jobs)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def print_rewards(runs: Runs) -> None:
    """The reward of every batch, by engine; and the same over thirds of the run."""
    print("| batch | " + " | ".join(runs) + " |\n|---|" + "---|" * len(runs))
    num_batches = min(len(lines) for seeds in runs.values() for lines in seeds)
    for batch in range(num_batches):
        cells = [spread([lines[batch]["reward"] for lines in seeds]) for seeds in runs.values()]
        print(f"| {batch + 1} | " + " | ".join(cells) + " |")
    third = max(1, num_batches // 3)
    for name, rows in (("first third", slice(0, third)), ("last third", slice(-third, None))):
        cells = [spread([statistics.mean(x["reward"] for x in s[rows]) for s in seeds]) for seeds in runs.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_times(runs: Runs) -> None:
    """Seconds of a batch and its parts, medians without each run's first batch; and the gap."""
    parts = ("step", "sync", "generate", "search", "scheduler", "logprob", "update")
    print("\n| engine | " + " | ".join(parts) + " | sync, % of a batch | gap, mean | gap, largest |")
    print("|---|" + "---|" * (len(parts) + 3))
    for engine, seeds in runs.items():
        lines = [line for run in seeds for line in run[1:]]
        seconds = {part: statistics.median(line.get(f"seconds_{part}", 0.0) for line in lines) for part in parts}
        gaps = [line["logprob_gap"] for line in lines if "logprob_gap" in line]
        largest = [line["logprob_gap_max"] for line in lines if "logprob_gap_max" in line]
        cells = [f"{seconds[part]:.2f}" for part in parts] + [f"{100 * seconds['sync'] / seconds['step']:.1f}"]
        cells += [f"{statistics.mean(gaps):.1g}", f"{max(largest):.1g}"] if gaps else ["", ""]
        print(f"| {engine} | " + " | ".join(cells) + " |")


def main() -> int:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="calibadv-vllm-"))
    folder.mkdir(parents=True, exist_ok=True)
    write_world(LabWorld.make(1001, size=300), folder)
    jobs = {
        engine: [make_job(engine, seed=seed, batches=args.batches, folder=folder) for seed in range(args.seeds)]
        for engine in ENGINES
    }
    train([job for pair in zip(*jobs.values(), strict=True) for job in pair], workers=args.workers)
    runs = {engine: [read_metrics(job.folder / METRICS) for job in made] for engine, made in jobs.items()}
    print_rewards(runs)
    print_times(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
