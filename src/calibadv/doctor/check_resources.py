"""Memory and disk: what the run would take, and what there is."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path

from calibadv.config import RunConfig
from calibadv.doctor.check import Check, Level
from calibadv.doctor.memory import (
    ROWS_AT_ONCE,
    Lengths,
    MemoryPlan,
    longest_lengths,
    plan_memory,
    readable,
    typical_lengths,
)
from calibadv.models.sizes import ModelShape, free_memory

TIGHT = 0.8
"""Share of what is free from which on it is called tight."""
ON_CPU_LOGITS = 1 << 26
"""Logits that the head holds at once on a CPU (`calibadv.training.overrides.token_logprobs.MAX_LOGITS`)."""


def check_memory(
    config: RunConfig, shape: ModelShape, *, prompt_tokens: int, measured: Lengths | None = None, processes: int = 1
) -> Check:
    """One process on the device of ``model.device``; lengths are measured ones where there are any."""
    device, free = free_memory(config.model.device)
    rows = math.ceil(config.training.questions_per_batch * config.training.num_rollouts / processes)
    expected, longest = (
        plan_memory(
            shape,
            lengths=lengths,
            rollout=config.rollout,
            training=config.training,
            dtype=config.model.dtype,
            rows=rows,
            processes=processes,
            max_rows=config.model.max_rows or ROWS_AT_ONCE,
            max_logits=ON_CPU_LOGITS if device == "the CPU" else None,
        )
        for lengths in (
            measured or typical_lengths(config.rollout, prompt=prompt_tokens),
            longest_lengths(config.rollout, prompt=prompt_tokens),
        )
    )
    trained = f" ({shape.trained_parameters / 1e6:,.1f} M trained)" if config.lora.rank else ""
    level = Level.OK
    if longest.total > free:
        level = Level.WARNING
    if expected.total > TIGHT * free:
        level = Level.WARNING if expected.total <= free else Level.BLOCKER
    return Check(
        name="memory",
        level=level,
        summary=f"{shape.parameters / 1e6:,.1f} M parameters{trained}: about {readable(expected.total)} with "
        f"{'measured' if measured else 'typical'} lengths, at most "
        f"{readable(longest.total)}; {device} has {readable(free)} free. {largest_parts(expected)}",
        remedy="" if level is Level.OK else memory_remedy(config, expected, free=free),
        facts={
            "device": device,
            "free": free,
            "shape": asdict(shape),
            "expected": asdict(expected) | {"update": expected.update, "rollout": expected.rollout},
            "longest": asdict(longest) | {"update": longest.update, "rollout": longest.rollout},
        },
    )


def largest_parts(plan: MemoryPlan) -> str:
    """The parts of a plan that matter, largest first."""
    parts = sorted(asdict(plan).items(), key=lambda part: -part[1])
    return ", ".join(f"{name.replace('_', ' ')} {readable(size)}" for name, size in parts if size > plan.total / 50)


def memory_remedy(config: RunConfig, plan: MemoryPlan, *, free: int) -> str:
    """What makes the run smaller, the most effective first."""
    fixed = plan.weights + plan.gradients + plan.optimizer
    if fixed > free and config.lora.rank is None:
        return "weights, gradients and optimizer alone do not fit: train an adapter (lora.rank = 16) or a smaller model"
    if plan.rollout > plan.update:
        return "lower model.max_rows, rollout.max_turn_tokens or rollout.max_observation_tokens"
    checkpointing = "" if config.training.activation_checkpointing else "set training.activation_checkpointing = true, "
    return (
        f"{checkpointing}lower training.micro_batch (now {config.training.micro_batch}), rollout.max_turn_tokens or "
        "rollout.max_observation_tokens" + ("" if config.lora.rank else ", or train an adapter (lora.rank = 16)")
    )


def check_disk(config: RunConfig, shape: ModelShape) -> Check:
    """Checkpoints hold weights (or the adapter) and two moments for every trained parameter, all in float32."""
    settings = config.training
    folder = settings.output
    weights = 4 * (shape.parameters if config.lora.rank is None else shape.trained_parameters)
    checkpoint = weights + 8 * shape.trained_parameters
    saves = max(1, settings.steps // settings.save_every if settings.save_every else 1)
    kept = saves if settings.keep_checkpoints is None else min(saves, settings.keep_checkpoints + 1)
    keeps_best = bool(settings.eval_every) and settings.best_metric != "none"
    needed = kept * checkpoint + (2 if keeps_best else 1) * 4 * shape.parameters
    free = shutil.disk_usage(existing_parent(folder)).free
    level = Level.BLOCKER if needed > free else Level.WARNING if needed > TIGHT * free else Level.OK
    return Check(
        name="disk",
        level=level,
        summary=f"{kept} checkpoints of {readable(checkpoint)} and the trained model take {readable(needed)}; "
        f"{readable(free)} are free at {folder}",
        remedy=""
        if level is Level.OK
        else "set training.keep_checkpoints, save less often (training.save_every), or name another training.output",
        facts={"checkpoint": checkpoint, "kept": kept, "needed": needed, "free": free},
    )


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
