"""Rollouts with our engine: tokens written a second by rows written at once, and memory beside the doctor's estimate.

Turns are forced: every forward pass and every draw is made, but the logit of a fixed token is raised first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rollout import DictatedPolicy

from calibadv.doctor.memory import kv_bytes_per_token
from calibadv.rollout import RolloutConfig, rollout
from calibadv.rollout.tokenizer import as_tokenizer
from calibadv.trajectory import Trajectory
from gpu_parts.setup import Setup, documents, make_model, questions, say, shape, tokenizer, written_turns

ROLLOUTS = 4
TURN_TOKENS = 40


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    inner = tokenizer()
    tokens = as_tokenizer(inner)
    sizes = (4, 8) if setup.tiny else (64, 128, 256, 512)
    texts = written_turns(episodes=max(sizes), turn_tokens=TURN_TOKENS)
    script = [[tokens.encode(text) for text in turns] for turns in texts]
    config = RolloutConfig(prompt="question", top_k=3, max_turn_tokens=160, max_context_tokens=4_096)
    for name in setup.models:
        sizes_of = shape(name)
        if 2.5 * sizes_of.parameters > setup.free():
            say(f"decode: {name} does not fit")
            continue
        model = make_model(name, dtype=torch.bfloat16, device=setup.device)
        for rows in sizes:
            policy = DictatedPolicy(model, inner, max_rows=rows)
            policy.script = script
            setup.reset_peak()
            result = rollout(
                questions(rows // ROLLOUTS), num_rollouts=ROLLOUTS, policy=policy,
                retriever=documents(tokens=10 if setup.tiny else 100), tokenizer=tokens, config=config, seed=0,
            )  # fmt: skip
            written, seconds = result.counters["generated_tokens"], result.seconds["generate"]
            longest = max(sum(lengths(trajectory)) for trajectory in result.trajectories)
            cache = policy.cache_rows * longest * kv_bytes_per_token(sizes_of, dtype="bfloat16")
            yield {
                "model": name,
                "rows": rows,
                "layers": sizes_of.layers,
                "tokens_per_s": written / seconds,
                "step_s": seconds / result.counters["ticks"],
                "seconds": result.seconds["total"],
                "steps": result.counters["ticks"],
                "written": written,
                "read": policy.read_tokens,
                "peak": setup.peak(),
                "estimated_peak": 2 * sizes_of.parameters + cache,
            }
        del model, policy


def lengths(trajectory: Trajectory) -> Iterator[int]:
    """Tokens of the prompt, the turns and the observations."""
    yield len(trajectory.prompt_token_ids)
    for turn in trajectory.turns:
        yield len(turn.token_ids) + len(turn.observation_token_ids)
