"""How much memory a run needs, from the shape of its model: arithmetic only, in bytes.

Shape letters: P = parameters, P_t = trained ones, L = layers, h = hidden size, q = heads x head size,
kv = key-value heads x head size, f = feed-forward size, V = vocabulary, T = tokens in one forward pass.

- weights 4 P, gradients 4 P_t, AdamW 8 P_t: all float32, whatever ``model.dtype`` says
- half precision keeps a 2-byte copy of the weights while a batch is computed: 2 P
- activations kept for the backward pass, per layer and token, for a Llama-like layer with fused attention:
  float32: 4 (6 h + 3 q + 2 kv + 4 f); half precision: 20 h + 2 (3 q + 2 kv + 4 f), because norms stay in float32
- with activation checkpointing: 4 h per layer and token, and one layer in full
- the head: logits, log-probabilities and their gradient, 3 x 4 V for every scored token that is held at once
- keys and values: 2 L kv c for every cached token, c = bytes of the type the model runs in

Updates hold weights, gradients, optimizer, activations and logits; rollouts hold weights, optimizer and the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibadv.models.sizes import ModelShape
from calibadv.rollout.config import RolloutConfig
from calibadv.training.config import TrainingConfig

HALF = frozenset({"bfloat16", "float16"})
OVERHEAD = 0.6 * 2**30
"""Python, torch and its libraries."""
TYPICAL_TURN, TYPICAL_DOCUMENT = 150, 150
"""Tokens, where nothing was measured: a short thought with its query; a passage of 100 words with its title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of an episode."""

    prompt: int
    turn: int
    observation: int

    def whole(self, *, searches: int, limit: int | None) -> int:
        """Tokens of an episode with so many searches, no more than the context holds."""
        length = self.prompt + searches * (self.turn + self.observation) + self.turn
        return length if limit is None else min(length, limit)


def typical_lengths(rollout: RolloutConfig, *, prompt: int) -> Lengths:
    """What to expect where nothing was measured."""
    return Lengths(
        prompt=prompt,
        turn=min(rollout.max_turn_tokens, TYPICAL_TURN),
        observation=min(rollout.max_observation_tokens, rollout.top_k * TYPICAL_DOCUMENT),
    )


def longest_lengths(rollout: RolloutConfig, *, prompt: int) -> Lengths:
    """What the settings allow."""
    return Lengths(prompt=prompt, turn=rollout.max_turn_tokens, observation=rollout.max_observation_tokens)


def activation_bytes_per_token(shape: ModelShape, *, dtype: str) -> int:
    """Activations that one token leaves behind for the backward pass, over all layers."""
    attention = 3 * shape.query_size + 2 * shape.key_value_size
    if dtype in HALF:
        return shape.layers * (20 * shape.hidden + 2 * (attention + 4 * shape.feed_forward))
    return shape.layers * 4 * (6 * shape.hidden + attention + 4 * shape.feed_forward)


def checkpointed_bytes_per_token(shape: ModelShape, *, dtype: str) -> int:
    """With activation checkpointing: the input of every layer, and the layer that is being computed again."""
    return shape.layers * 4 * shape.hidden + activation_bytes_per_token(shape, dtype=dtype) // shape.layers


def kv_bytes_per_token(shape: ModelShape, *, dtype: str) -> int:
    """Keys and values of one token, over all layers."""
    return 2 * shape.layers * shape.key_value_size * (2 if dtype in HALF else 4)


def logit_bytes(shape: ModelShape, *, scored_tokens: int, held_elements: int | None) -> int:
    """Logits, log-probabilities and their gradient of the tokens that are scored at once."""
    elements = scored_tokens * shape.vocabulary
    return 3 * 4 * (elements if held_elements is None else min(elements, held_elements))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on one device (one process)."""

    weights: int
    gradients: int
    optimizer: int
    half_copies: int
    activations: int
    logits: int
    kv_cache: int

    @property
    def update(self) -> int:
        """While the optimizer steps are made."""
        fixed = self.weights + self.gradients + self.optimizer + self.half_copies
        return int(OVERHEAD + fixed + self.activations + self.logits)

    @property
    def rollout(self) -> int:
        """While the rollouts are played."""
        return int(OVERHEAD + self.weights + self.optimizer + self.half_copies + self.kv_cache)

    @property
    def total(self) -> int:
        """The larger of the two."""
        return max(self.update, self.rollout)


def plan_memory(
    shape: ModelShape,
    *,
    lengths: Lengths,
    rollout: RolloutConfig,
    training: TrainingConfig,
    dtype: str,
    rows: int,
    max_logits: int | None,
    max_rows: int,
    processes: int = 1,
) -> MemoryPlan:
    """What one process needs.

    ``rows``: rollouts of a batch that it plays; ``max_logits``: elements held at once; ``max_rows``: turns written at
    once (a quarter more episodes are kept in the cache, for those that wait for a search).
    """
    limit = rollout.max_context_tokens
    if shape.max_context is not None:
        limit = shape.max_context if limit is None else min(limit, shape.max_context)
    episode = lengths.whole(searches=rollout.max_searches, limit=limit)
    tokens = min(training.micro_batch, rows) * episode
    per_token = checkpointed_bytes_per_token if training.activation_checkpointing else activation_bytes_per_token
    written = min(training.micro_batch, rows) * min(episode, (rollout.max_searches + 1) * lengths.turn)
    cached_rows = min(rows, max_rows + -(-max_rows // 4), rollout.concurrency or rows)
    return MemoryPlan(
        weights=4 * shape.parameters,
        gradients=4 * shape.trained_parameters,
        optimizer=8 * shape.trained_parameters // (processes if training.shard_optimizer else 1),
        half_copies=2 * shape.parameters if dtype in HALF else 0,
        activations=tokens * per_token(shape, dtype=dtype),
        logits=logit_bytes(shape, scored_tokens=written, held_elements=max_logits),
        kv_cache=cached_rows * episode * kv_bytes_per_token(shape, dtype=dtype),
    )


def readable(num_bytes: float) -> str:
    """Bytes for people.

    >>> readable(3 * 2**30), readable(5 * 2**20)
    ('3.0 GiB', '5 MiB')
    """
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
