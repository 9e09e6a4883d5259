"""Seconds of a batch, from a roofline: a step takes what arithmetic or memory takes, whichever is longer.

Letters: R = rollouts of a batch, Q = questions, S = searches of a rollout, p, w, o = tokens of prompt, turn and
observation, n = p + S (w + o) + w, L = layers, q = heads x head size, V = vocabulary, h = hidden size, B = parameters
without embedding and head (of which a token uses only its experts'), c = bytes of the type the model runs in,
N = GPUs, b = rows written at once.

- a forward pass: 2 B a token, 2 L q n for attention (a token looks back on half of its episode), 2 V h a scored token
- an update: 3 forward passes; with an adapter 2, as frozen weights need no gradient; one more with checkpointing
- decoding: R (S + 1) w / N / b steps; each reads the weights, c (B + V h), and the cache of its rows; at the end one
  rollout writes a turn up to its limit while all others are done
- reading: p tokens a question (a group shares its prompt), S o tokens a rollout
- the optimizer reads weight, gradient and moments and writes three of them: 28 bytes a parameter
- ddp sends gradients, twice 4 P_t an update; sharding sends weights twice and gradients once a micro-batch
- synchronisation: the weights in float32, gathered where they are sharded, once a batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from calibadv.doctor.memory import HALF, PlannedEngine, Sharding, kv_bytes_per_token
from calibadv.doctor.plan.assumptions import Assumptions
from calibadv.doctor.plan.hardware import Cluster
from calibadv.models.sizes import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """What a batch consists of."""

    questions: int
    rollouts: int
    searches: float
    """Of one rollout."""
    prompt: int
    turn: int
    observation: int
    longest_turn: int
    updates: int
    epochs: int
    micro_batch: int
    """Rollouts in one pass of one GPU."""
    checkpointing: bool
    rescored: bool
    """Log-probabilities are computed once more before the updates."""
    compared: bool = False
    """A reference model computes them too, for a KL term."""

    @property
    def episode(self) -> float:
        """Tokens of a rollout (n)."""
        return self.prompt + self.searches * (self.turn + self.observation) + self.turn

    @property
    def written(self) -> float:
        """Tokens that the policy writes, in all rollouts."""
        return self.rollouts * (self.searches + 1) * self.turn

    @property
    def read(self) -> float:
        """Tokens that it only reads."""
        return self.questions * self.prompt + self.rollouts * self.searches * self.observation

    @property
    def tokens(self) -> float:
        """Tokens of all rollouts."""
        return self.rollouts * self.episode


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTime:
    """Seconds of one batch, by part."""

    generate: float
    search: float
    """Until the retriever has answered all searches; they run beside the generation."""
    search_wait: float
    """A rollout's own searches, one after the other."""
    logprobs: float
    update: float
    communicate: float
    """Of the update, what does not hide behind arithmetic."""
    sync: float

    @property
    def rollout(self) -> float:
        """Generation and searches, which overlap."""
        return max(self.generate, self.search) + self.search_wait

    @property
    def total(self) -> float:
        """The whole batch."""
        return self.rollout + self.logprobs + self.update + self.communicate + self.sync


def head_parameters(shape: ModelShape) -> int:
    """Of the language-model head (V h)."""
    return shape.vocabulary * shape.hidden


def body_parameters(shape: ModelShape) -> int:
    """Those that every token is multiplied with (B)."""
    return (shape.active_parameters or shape.parameters) - shape.embedding_parameters


def forward_flops(shape: ModelShape, *, tokens: float, scored: float, length: float) -> float:
    """Operations of a forward pass over episodes of ``length`` tokens; a multiplication with its addition is two."""
    attention = 2 * shape.layers * shape.query_size * length
    return tokens * (2 * body_parameters(shape) + attention) + scored * 2 * head_parameters(shape)


def update_passes(*, adapter: bool, checkpointing: bool) -> int:
    """Forward passes that forward and backward amount to."""
    return (2 if adapter else 3) + checkpointing


def decode_step(
    shape: ModelShape, *, rows: float, context: float, dtype: str, engine: PlannedEngine, cluster: Cluster,
    assumptions: Assumptions, tensor_parallel: int = 1,
) -> float:  # fmt: skip
    """Seconds in which one GPU writes a token in each of ``rows``; with ``tensor_parallel`` others it shares weights,
    and what they tell each other is not counted."""
    size = 2 if dtype in HALF else 4
    # Of many experts all are read as soon as there are some dozens of rows.
    weights = size * (shape.parameters - shape.embedding_parameters + head_parameters(shape))
    moved = weights / tensor_parallel + rows * context * kv_bytes_per_token(shape, dtype=dtype)
    attention = 4 * shape.layers * shape.query_size * context
    flops = rows * (2 * body_parameters(shape) + 2 * head_parameters(shape) + attention)
    gpu = cluster.gpu
    launch = assumptions.eager_layer_ms * shape.layers if engine == "transformers" else assumptions.vllm_step_ms
    roofline = max(moved / (gpu.bandwidth * assumptions.mbu), flops / (gpu.flops * assumptions.forward_mfu))
    # Kernels are launched while others run, so that eager launching hides what is shorter; vLLM's scheduler does not.
    return max(roofline, launch / 1e3) if engine == "transformers" else roofline + launch / 1e3


def link_bandwidth(cluster: Cluster, *, processes: int, assumptions: Assumptions) -> float:
    """Bytes a second of a collective's ring: the slowest link on the way."""
    link = cluster.gpu.link
    if processes > cluster.gpus:
        link = min(link, assumptions.network_gb_s * 1e9)
    return link * assumptions.link_share


def generation_time(
    shape: ModelShape, work: BatchWork, *, gpus: int, rows: int, dtype: str, engine: PlannedEngine, cluster: Cluster,
    assumptions: Assumptions, tensor_parallel: int = 1,
) -> float:  # fmt: skip
    """Seconds that ``gpus`` GPUs write, each ``rows`` rollouts at once."""
    context = (work.prompt + work.episode) / 2
    rows = max(1, min(rows, math.ceil(work.rollouts / gpus)))
    busy, alone = (
        decode_step(
            shape,
            rows=count,
            context=context,
            dtype=dtype,
            engine=engine,
            cluster=cluster,
            assumptions=assumptions,
            tensor_parallel=tensor_parallel,
        )
        for count in (rows, 1)
    )
    steps = work.written / gpus / rows
    flops = forward_flops(shape, tokens=work.read, scored=0, length=work.episode)
    reading = flops / (gpus * cluster.gpu.flops * assumptions.forward_mfu)
    return steps * busy + work.longest_turn * alone + reading


def communication_time(
    shape: ModelShape, work: BatchWork, *, sharding: Sharding, processes: int, dtype: str, cluster: Cluster,
    assumptions: Assumptions,
) -> float:  # fmt: skip
    """Seconds of a batch in which weights and gradients travel and nothing is computed."""
    if processes == 1:
        return 0.0
    sent = (processes - 1) / processes
    size = 2 if dtype in HALF else 4
    if sharding == "ddp":
        moved = work.updates * 2 * 4 * shape.trained_parameters
    else:
        passes = work.epochs * math.ceil(work.rollouts / processes / work.micro_batch)
        gradient = size if sharding == "zero3" else 4
        moved = passes * (2 * size * shape.parameters + gradient * shape.trained_parameters)
    bandwidth = link_bandwidth(cluster, processes=processes, assumptions=assumptions)
    return moved * sent / bandwidth * (1 - assumptions.overlap)


def sync_time(
    shape: ModelShape, *, sharding: Sharding, engine: PlannedEngine, processes: int, dtype: str, cluster: Cluster,
    assumptions: Assumptions,
) -> float:  # fmt: skip
    """Seconds until the engine writes with the new weights."""
    if engine == "transformers":
        return 0.0
    whole = 4 * shape.parameters
    size = 2 if dtype in HALF else 4
    written = (whole + size * shape.parameters) / (cluster.gpu.bandwidth * assumptions.mbu)
    bandwidth = link_bandwidth(cluster, processes=processes, assumptions=assumptions)
    gathered = whole / bandwidth if sharding != "ddp" and processes > 1 else 0.0
    if engine == "vllm-server":
        # The server may be on another machine: one process sends everything to it.
        across = cluster.size > cluster.gpus
        link = min(cluster.gpu.link, assumptions.network_gb_s * 1e9) if across else cluster.gpu.link
        return gathered + written + whole / (link * assumptions.link_share)
    return gathered + written + assumptions.wake_s


def batch_time(
    shape: ModelShape, work: BatchWork, *, sharding: Sharding, engine: PlannedEngine, processes: int, writers: int,
    rows: int, dtype: str, adapter: bool, cluster: Cluster, assumptions: Assumptions, tensor_parallel: int = 1,
) -> BatchTime:  # fmt: skip
    """Seconds of a batch.

    ``processes``: GPUs that train; ``writers``: those that write rollouts (the same ones, or a server's).
    """
    gpu = cluster.gpu
    forward = forward_flops(shape, tokens=work.tokens, scored=work.written, length=work.episode)
    passes = update_passes(adapter=adapter, checkpointing=work.checkpointing)
    shards = 1 if sharding == "ddp" else processes
    optimizer = work.updates * 28 * shape.trained_parameters / shards / (gpu.bandwidth * assumptions.mbu)
    return BatchTime(
        generate=generation_time(
            shape, work, gpus=writers, rows=rows, dtype=dtype, engine=engine, cluster=cluster, assumptions=assumptions,
            tensor_parallel=tensor_parallel,
        ),
        search=work.rollouts * work.searches / assumptions.searches_per_s,
        search_wait=work.searches * assumptions.search_s,
        logprobs=(work.rescored + work.compared) * forward / (processes * gpu.flops * assumptions.forward_mfu),
        update=work.epochs * passes * forward / (processes * gpu.flops * assumptions.update_mfu) + optimizer,
        communicate=communication_time(
            shape, work, sharding=sharding, processes=processes, dtype=dtype, cluster=cluster, assumptions=assumptions
        ),
        sync=sync_time(
            shape, sharding=sharding, engine=engine, processes=processes, dtype=dtype, cluster=cluster,
            assumptions=assumptions,
        ),
    )  # fmt: skip
