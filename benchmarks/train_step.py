"""Where the time of a training step goes, and what the trainer's overrides save.

    python benchmarks/train_step.py [--json] [--questions 16] [--rollouts 5] [--repeats 5] [--budgets 1024 2048 4096]

A step is one batch of the lab: rollouts of the packaged policy, rewards, calibrated advantages, two optimizer steps.
Every arm of a round starts from the same weights and plays the same rollouts; arms are interleaved in one process.

- "ours": CalibAdvTrainer, with several budgets of tokens in a pass
- "trl": the same rollouts and advantages with TRL's own batching (20 rollouts in a pass, padded to the longest of the
  batch, shuffled, every row trained) and its own scoring (masked rows, logits of every position, old log-probabilities
  by one more forward)
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict

from calibadv.config import RunConfig
from calibadv.lab import LabWorld, load_policy
from calibadv.lab.questions import make_questions, write_world
from calibadv.models.load import load_model
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.open import open_retriever
from calibadv.runs.train import quiet
from calibadv.runs.trainer_args import trainer_config
from calibadv.training import CalibAdvTrainer, read_metrics
from calibadv.training.overrides.micro_batches import Pass, Prepared
from calibadv.trajectory import Question

PARTS = ("generate", "update", "logprob", "search", "engine", "storage", "optimizer", "other")
"""Of a step. "update" is forward and backward; "engine" reads actions and renders documents; "other" is credit
assignment, padding, metrics and the Trainer's own loop."""

INSIDE = ("generate", "update", "logprob")
"""Time in which the model runs."""

ROWS = 20
"""Rollouts in a pass of the "trl" arm."""


class TrlPath(CalibAdvTrainer):
    """Batching and scoring as TRL does them."""

    rows = ROWS
    """In a pass."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if isinstance(generation_batch, Prepared):
            return dict(generation_batch)
        if self._step % self.args.updates_per_batch == 0:
            batch: dict[str, Any] = shuffle_sequence_dict(self._generate_and_score_completions(generation_batch))
            passes = max(1, len(batch["completion_ids"]) // (self.rows * self.args.mini_batches))
            batch["num_items_in_batch"] = batch["num_items_in_batch"] / self.args.mini_batches / passes
            pieces: list[dict[str, Any]] = split_tensor_dict(batch, passes * self.args.mini_batches)
            cut = [
                (Pass(rows=[], most_rows=len(piece["completion_ids"]), share=1 / passes), Prepared(piece))
                for piece in pieces
            ]
            self._buffered_inputs = [cut[start : start + passes] for start in range(0, len(cut), passes)]
        return self._buffered_inputs[self._step % self.args.mini_batches]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if self._generating:
            with self.clock.lap("logprob"):
                return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs | {"batch_size": self.rows})
        return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)


class StepTimer(TrainerCallback):
    """Times the optimizer, and the whole step in CPU seconds."""

    def __init__(self, trainer: CalibAdvTrainer) -> None:
        self.trainer = trainer
        self.cpu_s = 0.0
        self._start = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.cpu_s = -time.process_time()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.clock.add("optimizer", time.perf_counter() - self._start)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self.cpu_s += time.process_time()


def run_config(folder: Path, *, questions: int, rollouts: int, budget: int, seed: int, threads: int) -> RunConfig:
    """One batch of the lab's kind."""
    sections = {
        "model": {"path": str(load_policy()), "device": "cpu"},
        "retrieval": {"corpus": str(folder / "corpus.jsonl")},
        "rollout": {"prompt": "question", "top_k": 2, "max_searches": 3, "max_turn_tokens": 64},
        "training": {
            "steps": 2,
            "questions_per_batch": questions,
            "num_rollouts": rollouts,
            "mini_batches": 2,
            "micro_batch_tokens": budget,
            "learning_rate": 4e-4,
            "seed": seed,
            "threads": threads,
        },
    }
    return RunConfig.from_mapping(sections)


def measure(
    name: str,
    config: RunConfig,
    *,
    model: Any,
    tokenizer: Any,
    retriever: Retriever,
    questions: list[Question],
    out: Path,
) -> dict[str, float]:
    """Train one batch and return seconds by part."""
    args = trainer_config(config, out)
    args.save_strategy = "no"
    if name == "trl":
        args.old_logprobs = "recomputed"
    trainer = (TrlPath if name == "trl" else CalibAdvTrainer)(
        copy.deepcopy(model), args=args, train_questions=questions, retriever=retriever, processing_class=tokenizer
    )
    trainer.remove_callback(PrinterCallback)
    timer = StepTimer(trainer)
    trainer.add_callback(timer)
    trainer.train()
    (line,) = read_metrics(out / "metrics.jsonl")
    seconds = {part: line.get(f"seconds_{part}", 0.0) for part in PARTS}
    return seconds | {
        "step": line["seconds_step"],
        "cpu": timer.cpu_s,
        "tokens": line["tokens"] * config.training.questions_per_batch * config.training.num_rollouts,
        "outside": sum(seconds[part] for part in PARTS if part not in INSIDE) / line["seconds_step"],
        "no_signal": line["groups_without_signal"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budgets", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    arms = [("ours", size) for size in options.budgets] + [("trl", ROWS)]
    rows: dict[tuple[str, int], list[dict[str, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(temporary)
        world = LabWorld.make(901)
        write_world(world, folder)
        questions = make_questions(world, "train")
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for name, size in arms:
                config = run_config(
                    folder, questions=options.questions, rollouts=options.rollouts, budget=size,
                    seed=repeat, threads=options.threads,
                )  # fmt: skip
                if repeat == 0 and (name, size) == arms[0]:
                    model, tokenizer = load_model(config.model)
                    retriever = open_retriever(config.retrieval, top_k=config.rollout.top_k)
                seconds = measure(
                    name, config, model=model, tokenizer=tokenizer, retriever=retriever, questions=questions,
                    out=folder / f"{name}-{size}-{repeat}",
                )  # fmt: skip
                if repeat:
                    rows[name, size].append(seconds)
    report = [
        {"arm": name, "pass": size}
        | {key: round(statistics.median(entry[key] for entry in entries), 4) for key in entries[0]}
        for (name, size), entries in rows.items()
    ]
    for row, entries in zip(report, rows.values(), strict=True):
        reference = rows[arms[-1]]
        for unit in ("cpu", "step"):
            ratios = [theirs[unit] / ours[unit] for ours, theirs in zip(entries, reference, strict=True)]
            row[f"speedup_{unit}"] = round(statistics.median(ratios), 2)
    sys.stdout.write((json.dumps(report, indent=1) if options.json else as_table(report)) + "\n")


def as_table(report: list[dict[str, Any]]) -> str:
    """One line per arm, seconds."""
    columns = ["arm", "pass", "step", "cpu", *PARTS, "outside", "speedup_cpu"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in report:
        cells = [
            f"{row[c]:.1%}" if c == "outside" else f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c])
            for c in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
