"""Updates: tokens a second with our micro-batches and with TRL's, and memory beside the doctor's estimate.

The rollouts are scripted, so that nothing is generated; log-probabilities, loss, backward passes and the optimizer are
the trainer's own, in bfloat16 over float32 weights with activation checkpointing, as in the recipes. The second of two
batches counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from train_step import StepTimer, TrlPath
from transformers import PrinterCallback

from calibadv.config import RunConfig
from calibadv.doctor.memory import Lengths, MemoryPlan, plan_memory
from calibadv.lab import load_policy
from calibadv.rollout.policies.scripted import ScriptedPolicy
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.runs.train import quiet
from calibadv.runs.trainer_args import trainer_config
from calibadv.training import CalibAdvTrainer, read_metrics
from calibadv.trajectory import Trajectory
from gpu_parts.setup import Setup, documents, make_model, questions, say, shape, tokenizer, written_turns

QUESTIONS, ROLLOUTS, SEARCHES = 8, 5, 4
PROMPT = 60
"""Tokens of a prompt, about."""


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    for name in setup.models:
        config = run_config(setup)
        plan = memory_plan(name, config, setup)
        if 1.3 * plan.update > setup.free():
            say(f"update: {name} would take {plan.update / 1e9:.0f} GB and is left out")
            continue
        for batching in ("ours", "trl"):
            yield {"model": name, "batching": batching, **measure(name, batching, config, plan, setup)}


def run_config(setup: Setup) -> RunConfig:
    """One batch of real lengths, shorter in ``--tiny``."""
    return RunConfig.from_mapping(
        {
            "model": {"path": str(load_policy()), "device": setup.device, "dtype": "bfloat16"},
            "retrieval": {"url": "http://127.0.0.1:9"},
            "rollout": {"prompt": "question", "top_k": 3, "max_searches": SEARCHES, "max_turn_tokens": 600},
            "algorithm": {"name": "grpo"},
            "training": {
                "steps": 4, "questions_per_batch": 2 if setup.tiny else QUESTIONS, "num_rollouts": ROLLOUTS,
                "mini_batches": 2, "micro_batch_tokens": 8192, "activation_checkpointing": True, "learning_rate": 1e-6,
            },
        }
    )  # fmt: skip


def turn_tokens(setup: Setup) -> int:
    return 20 if setup.tiny else 150


def memory_plan(name: str, config: RunConfig, setup: Setup) -> MemoryPlan:
    """What the doctor expects."""
    turn = turn_tokens(setup)
    return plan_memory(
        shape(name),
        lengths=Lengths(prompt=PROMPT, turn=turn, observation=3 * turn),
        rollout=config.rollout,
        training=config.training,
        dtype="bfloat16",
        rows=config.training.questions_per_batch * ROLLOUTS,
        max_rows=1,
    )


def spread_reward(trajectory: Trajectory) -> float:
    """Different for the rollouts of a group, so that each of them teaches something."""
    return (int(trajectory.answer or 0) % ROLLOUTS) / ROLLOUTS


def measure(name: str, batching: str, config: RunConfig, plan: MemoryPlan, setup: Setup) -> dict[str, Any]:
    """Two batches."""
    inner, out = tokenizer(), setup.folder / f"{name.replace('/', '-')}-{batching}"
    args = trainer_config(config, out)
    args.save_strategy = "no"
    if batching == "trl":
        args.old_logprobs = "recomputed"
    batch = config.training.questions_per_batch
    texts = written_turns(episodes=batch * ROLLOUTS, turn_tokens=turn_tokens(setup))
    lengths: list[tuple[int, int]] = []

    def reward(trajectory: Trajectory) -> float:
        written = sum(len(turn.token_ids) for turn in trajectory.turns)
        read = sum(len(turn.observation_token_ids) for turn in trajectory.turns)
        lengths.append((written, written + read + len(trajectory.prompt_token_ids)))
        return spread_reward(trajectory)

    with quiet():
        trainer = (TrlPath if batching == "trl" else CalibAdvTrainer)(
            make_model(name, dtype=torch.float32, device=setup.device), args=args, train_questions=questions(batch),
            retriever=documents(tokens=turn_tokens(setup)), processing_class=inner, reward=reward,
            policy=lambda *_: ScriptedPolicy(texts, tokenizer=as_tokenizer(inner)),
        )  # fmt: skip
        if isinstance(trainer, TrlPath):
            trainer.rows = 4
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StepTimer(trainer))
        setup.reset_peak()
        trainer.train()
    lines = read_metrics(out / "metrics.jsonl")
    peak = setup.peak()
    line, counted = lines[-1], lengths[-batch * ROLLOUTS :]
    scored, tokens = (sum(column) for column in zip(*counted, strict=True))
    seconds, forward = line["seconds_update"] + line["seconds_optimizer"], line["seconds_logprob"]
    row = {
        "parameters": shape(name).parameters,
        "tokens_per_s": tokens / seconds,
        "seconds": line["seconds_update"],
        "optimizer_seconds": line["seconds_optimizer"],
        "forward_seconds": forward,
        "tokens": tokens,
        "scored": scored,
        "length": tokens / len(counted),
        "checkpointing": config.training.activation_checkpointing,
        "loss": line["loss"],
        "peak": peak,
        "estimated_peak": plan.update,
        "estimated_activations": plan.activations + plan.logits,
    }
    if peak is not None:
        fixed = sum(
            value
            for part, value in asdict(plan).items()
            if part in ("weights", "gradients", "optimizer", "half_copies")
        )
        row["measured_activations"] = max(0, peak - fixed)
    return row
