"""The ways to share a model among GPUs and to write rollouts, with the memory each takes of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from calibadv.doctor.memory import (
    Lengths,
    MemoryPlan,
    PlannedEngine,
    Sharding,
    context_limit,
    engine_bytes,
    kv_bytes_per_token,
    plan_memory,
)
from calibadv.models.sizes import ModelShape
from calibadv.rollout.config import RolloutConfig
from calibadv.training.config import TrainingConfig

FEWEST_ROWS = 8
"""A layout whose cache holds fewer rollouts than this (and than the batch has) does not fit: it would crawl."""
SHARDINGS: tuple[Sharding, ...] = ("ddp", "fsdp2", "zero3")
ENGINES: tuple[PlannedEngine, ...] = ("transformers", "vllm", "vllm-server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to train and to write."""

    sharding: Sharding
    engine: PlannedEngine
    adapter: bool
    processes: int
    """GPUs that train."""
    servers: int
    """GPUs that only write rollouts."""

    @property
    def name(self) -> str:
        """For tables."""
        train = {"ddp": "DDP" if self.processes > 1 else "one GPU", "fsdp2": "FSDP2", "zero3": "ZeRO-3"}[self.sharding]
        engine = {"vllm": "colocated vLLM", "vllm-server": f"vLLM on {self.servers}"}.get(self.engine, self.engine)
        return f"{'LoRA, ' if self.adapter else ''}{train}, {engine}"


def layouts(*, gpus: int, servers: int) -> Iterator[Layout]:
    """All layouts of so many GPUs, of which a server would get ``servers``.

    Sharded weights are written with by vLLM only, an adapter is small enough to need no sharding, and one GPU has
    nobody to share with.
    """
    for adapter in (False, True):
        for sharding in SHARDINGS if gpus > 1 and not adapter else SHARDINGS[:1]:
            for engine in ENGINES:
                given = servers if engine == "vllm-server" else 0
                if (engine == "transformers" and sharding != "ddp") or (
                    engine == "vllm-server" and not 0 < given < gpus
                ):
                    continue
                yield Layout(sharding=sharding, engine=engine, adapter=adapter, processes=gpus - given, servers=given)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineShare:
    """What a run's settings say about its engine."""

    bytes: int | None = None
    """Of a GPU that a colocated engine takes, weights and cache; None: as much as is free and wanted."""
    tensor_parallel: int = 1
    """GPUs that share the engine's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutMemory:
    """Bytes of one GPU in a layout."""

    plan: MemoryPlan
    rows: int
    """Rollouts that are written at once on a GPU that writes; as many as are wanted and as the cache has room for."""
    server: int
    """Bytes of a GPU of the server; 0 without one."""
    least: int
    """Bytes of the fullest GPU with the fewest rows: the cache of the others takes what is free."""

    @property
    def total(self) -> int:
        """Of the fullest GPU."""
        return max(self.plan.total, self.server)


def layout_memory(
    shape: ModelShape,
    layout: Layout,
    *,
    room: float,
    lengths: Lengths,
    rollout: RolloutConfig,
    training: TrainingConfig,
    dtype: str,
    most_rows: Callable[[int], int],
    activations: float = 1.0,
    engine: EngineShare | None = None,
) -> LayoutMemory:
    """What a GPU holds, with as many rows as fit into ``room`` bytes.

    ``most_rows``: how many an engine writes at once with so many bytes free; ``engine``: what a colocated one may take.
    """
    engine = engine or EngineShare()
    batch = training.questions_per_batch * training.num_rollouts
    full = plan_memory(
        shape,
        lengths=lengths,
        rollout=rollout,
        training=training,
        dtype=dtype,
        rows=-(-batch // layout.processes),
        max_rows=1,  # the cache follows below
        processes=layout.processes,
        sharding=layout.sharding,
        engine=layout.engine,
        tensor_parallel=engine.tensor_parallel,
    )
    full = replace(full, activations=int(full.activations * activations), logits=int(full.logits * activations))
    episode = lengths.whole(searches=rollout.max_searches, limit=context_limit(shape, rollout))
    # "transformers" keeps a quarter more rows, for those that wait for a search.
    row = episode * kv_bytes_per_token(shape, dtype=dtype) * (1.25 if layout.engine == "transformers" else 1.0)
    served = engine_bytes(shape, dtype=dtype, tensor_parallel=engine.tensor_parallel)
    beside = served if layout.servers else full.rollout - full.kv_cache
    most = most_rows(max(0, int(room) - beside))
    wanted = min(most, -(-batch // (layout.servers or layout.processes)), rollout.concurrency or batch)
    reserved = None if engine.bytes is None or layout.engine != "vllm" else engine.bytes - served
    rows = fitting(room - beside if reserved is None else reserved, row=row, wanted=wanted)
    cache = int(rows * row if reserved is None else max(reserved, rows * row))
    least = int(min(rows, FEWEST_ROWS) * row) if reserved is None else cache
    return LayoutMemory(
        plan=full if layout.servers else replace(full, kv_cache=cache),
        rows=rows,
        server=beside + cache if layout.servers else 0,
        least=max(full.update, beside + least),
    )


def fitting(room: float, *, row: float, wanted: int) -> int:
    """Rows that fit; at least `FEWEST_ROWS` are asked for."""
    return max(min(wanted, FEWEST_ROWS), min(wanted, int(room // row)))
