"""Memory: what the run would take, and what the device has."""

from __future__ import annotations

import math
from dataclasses import asdict

from calibadv.config import RunConfig
from calibadv.doctor.check import TIGHT, Check, Level
from calibadv.doctor.memory import Lengths, MemoryPlan, longest_lengths, plan_memory, readable, typical_lengths
from calibadv.models.sizes import ModelShape, free_memory


def check_memory(
    config: RunConfig, shape: ModelShape, *, prompt_tokens: int, measured: Lengths | None = None, processes: int = 1
) -> Check:
    """One process on the device of ``model.device``; lengths are measured ones where there are any."""
    from calibadv.rollout.policies.transformers import DEFAULT_ROWS

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
            max_rows=config.model.max_rows or DEFAULT_ROWS,
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
        remedy=memory_remedy(config, expected, free=free),
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
    fixed = plan.weights + plan.gradients + plan.buckets + plan.optimizer
    if fixed > free and config.lora.rank is None:
        return "weights, gradients and optimizer alone do not fit: train an adapter (lora.rank = 16) or a smaller model"
    if plan.rollout > plan.update:
        return "lower model.max_rows, rollout.max_turn_tokens or rollout.max_observation_tokens"
    checkpointing = "" if config.training.activation_checkpointing else "set training.activation_checkpointing = true, "
    return (
        f"{checkpointing}lower training.micro_batch_tokens (now {config.training.micro_batch_tokens}), "
        "rollout.max_turn_tokens or rollout.max_observation_tokens"
        + ("" if config.lora.rank else ", or train an adapter (lora.rank = 16)")
    )
