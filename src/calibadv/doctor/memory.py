"""How much memory a run needs, from the shape of its model: arithmetic only, in bytes.

Shape letters: P = parameters, P_t = trained ones, E = those of embedding and head, L = layers, h = hidden size,
q = heads x head size, kv = key-value heads x head size, f = feed-forward size, V = vocabulary, T = tokens in one
forward pass, N = processes (GPUs), c = bytes of the type the model runs in.

- weights 4 P, gradients 4 P_t, AdamW 8 P_t: all float32, whatever ``model.dtype`` says
- a reference model (``training.beta`` without an adapter): another 4 P
- half precision keeps a 2-byte copy of the weights while a batch is computed: 2 P
- ddp with several processes: gradients lie in the buckets that are sent, which are held during rollouts too (torch's
  default keeps them a second time, 4 P_t more: 22 bytes a parameter in all)
- a KL term (``training.beta``) without an adapter: a reference model, 4 P, sharded as the model is
- fsdp2: weights, gradients and moments are cut in N pieces, 16 P / N; whole are, in turn, the layer being computed, the
  one fetched ahead, and embedding and head: c (2 (P - E) / L + E), and gradients before they are
  added up: 4 ((P - E) / L + E)
- zero3: the same, and a piece of the half-precision weights, 2 P / N; half-precision gradients
- activations kept for the backward pass, per layer and token, for a Llama-like layer with fused attention:
  float32: 4 (6 h + 3 q + 2 kv + 4 f); half precision: 20 h + 2 (3 q + 2 kv + 4 f), because norms stay in float32
- with activation checkpointing: 4 h per layer and token, and one layer in full
- the head: logits, log-probabilities and their gradient, 3 x 4 V for every scored token that is held at once, at most
  3 x 4 x 2^26
- keys and values: 2 L kv c for every cached token
- a colocated engine has weights of its own while it writes, c P, and room to work; it sleeps during updates

Updates hold weights, gradients, optimizer, activations and logits; rollouts hold weights, optimizer and the cache.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from calibadv.models.sizes import ModelShape
from calibadv.rollout.config import RolloutConfig
from calibadv.training.config import TrainingConfig
from calibadv.training.packing import MAX_LOGITS

HALF = frozenset({"bfloat16", "float16"})
OVERHEAD = 0.6 * 2**30
"""Python, torch and its libraries."""
ENGINE_WORK = 2 * 2**30
"""A colocated engine's activations, graphs and sampler while it writes."""
ASLEEP = 2**30
"""What it keeps while it sleeps."""
Sharding = Literal["ddp", "fsdp2", "zero3"]
"""How several processes share a model: whole in each, or cut in pieces by torch or by DeepSpeed."""
PlannedEngine = Literal["transformers", "vllm", "vllm-server"]
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


def logit_bytes(shape: ModelShape, *, scored_tokens: int, held_elements: int) -> int:
    """Logits, log-probabilities and their gradient of the tokens that are scored at once."""
    elements = scored_tokens * shape.vocabulary
    return 3 * 4 * min(elements, held_elements)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """Bytes of the model and its training state on one device."""

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    """Gradients of several processes, where these are views of what is sent."""
    reference: int
    half_copies: int
    gathered: int
    """What sharded training holds whole for a while."""


def model_memory(
    shape: ModelShape,
    *,
    dtype: str,
    sharding: Sharding,
    processes: int,
    reference: bool = False,
) -> ModelMemory:
    """What the model takes in each of so many processes; ``reference``: a whole model besides, for a KL term."""
    half = dtype in HALF
    trained = shape.trained_parameters
    compared = 4 * shape.parameters if reference else 0
    if sharding == "ddp" or processes == 1:
        return ModelMemory(
            weights=4 * shape.parameters,
            gradients=0 if processes > 1 else 4 * trained,
            optimizer=8 * trained,
            buckets=4 * trained if processes > 1 else 0,
            reference=compared,
            half_copies=2 * shape.parameters if half else 0,
            gathered=0,
        )
    layer = (shape.parameters - shape.embedding_parameters) // shape.layers
    in_half = sharding == "zero3" and half
    return ModelMemory(
        weights=4 * shape.parameters // processes,
        gradients=(2 if in_half else 4) * trained // processes,
        optimizer=8 * trained // processes,
        buckets=0,
        reference=compared // processes,
        half_copies=2 * shape.parameters // processes if in_half else 0,
        gathered=(2 if half else 4) * (2 * layer + shape.embedding_parameters)
        + 4 * (layer + shape.embedding_parameters) * trained // shape.parameters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan(ModelMemory):
    """Bytes on one device (one process)."""

    activations: int
    logits: int
    kv_cache: int
    engine: int = 0
    """Weights and room to work of a colocated engine, while it writes."""

    @property
    def fixed(self) -> int:
        """What both phases hold."""
        return int(OVERHEAD) + self.weights + self.optimizer + self.buckets + self.reference

    @property
    def update(self) -> int:
        """While the optimizer steps are made."""
        computed = self.gradients + self.half_copies + self.gathered + self.activations + self.logits
        return self.fixed + computed + (ASLEEP if self.engine else 0)

    @property
    def rollout(self) -> int:
        """While the rollouts are played."""
        return self.fixed + (self.engine or self.half_copies) + self.kv_cache

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
    max_rows: int,
    processes: int = 1,
    sharding: Sharding = "ddp",
    engine: PlannedEngine = "transformers",
    tensor_parallel: int = 1,
) -> MemoryPlan:
    """What one process needs.

    ``rows``: rollouts of a batch that it plays; ``max_rows``: turns written at once (a quarter more episodes are kept
    in the cache of "transformers", for those that wait for a search). A "vllm-server" has memory of its own.
    """
    episode = lengths.whole(searches=rollout.max_searches, limit=context_limit(shape, rollout))
    together = min(max(1, training.micro_batch_tokens // episode), rows)
    per_token = checkpointed_bytes_per_token if training.activation_checkpointing else activation_bytes_per_token
    written = together * min(episode, (rollout.max_searches + 1) * lengths.turn)
    waiting = -(-max_rows // 4) if engine == "transformers" else 0
    cached_rows = 0 if engine == "vllm-server" else min(rows, max_rows + waiting, rollout.concurrency or rows)
    model = model_memory(
        shape,
        dtype=dtype,
        sharding=sharding,
        processes=processes,
        # An adapter's reference is the model without it.
        reference=training.beta > 0 and shape.trained_parameters == shape.parameters,
    )
    return MemoryPlan(
        **asdict(model),
        activations=together * episode * per_token(shape, dtype=dtype),
        logits=logit_bytes(shape, scored_tokens=written, held_elements=MAX_LOGITS),
        kv_cache=cached_rows * episode * kv_bytes_per_token(shape, dtype=dtype),
        engine=engine_bytes(shape, dtype=dtype, tensor_parallel=tensor_parallel) if engine == "vllm" else 0,
    )


def context_limit(shape: ModelShape, rollout: RolloutConfig) -> int | None:
    """Tokens that an episode may have, by the settings and by the model."""
    limits = [limit for limit in (rollout.max_context_tokens, shape.max_context) if limit is not None]
    return min(limits, default=None)


def engine_bytes(shape: ModelShape, *, dtype: str, tensor_parallel: int = 1) -> int:
    """vLLM without its cache: weights, which ``tensor_parallel`` GPUs share, and room to work."""
    return (2 if dtype in HALF else 4) * shape.parameters // tensor_parallel + ENGINE_WORK


def readable(num_bytes: float) -> str:
    """Bytes for people.

    >>> readable(3 * 2**30), readable(5 * 2**20)
    ('3.0 GiB', '5 MiB')
    """
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
