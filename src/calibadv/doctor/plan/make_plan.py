"""A run on a cluster in every layout: what fits, how long a batch takes, days and GPU hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from calibadv.config import RunConfig
from calibadv.doctor.check import TIGHT, Level
from calibadv.doctor.memory import HALF, Lengths, Sharding, kv_bytes_per_token
from calibadv.doctor.plan.assumptions import Assumptions
from calibadv.doctor.plan.batch_time import BatchTime, BatchWork, batch_time
from calibadv.doctor.plan.hardware import Cluster, Gpu
from calibadv.doctor.plan.layouts import EngineShare, Layout, LayoutMemory, layout_memory, layouts
from calibadv.models.config import ModelConfig
from calibadv.models.sizes import ModelShape, plan_shape

DEFAULT_RANK = 16
"""Of the adapter in the plan of a run that has none."""
ALIKE = 1.05
"""Times that differ by less are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutPlan:
    """One layout of a run."""

    layout: Layout
    memory: LayoutMemory
    level: Level
    """Whether it fits: a warning where it is tight, a blocker where it does not."""
    time: BatchTime
    gpus: int
    batches: int

    @property
    def days(self) -> float:
        """Of the whole run, without evaluations."""
        return self.time.total * self.batches / 86_400

    @property
    def gpu_hours(self) -> float:
        """Of the whole run; a server's GPUs count too."""
        return self.days * 24 * self.gpus

    def utilization(self, gpu: Gpu) -> float | None:
        """Of the GPU's memory, what vLLM takes in this layout: its ``gpu_memory_utilization``."""
        plan = self.memory.plan
        taken = self.memory.server or (plan.engine and plan.engine + plan.kv_cache)
        return math.ceil(100 * taken / gpu.memory) / 100 if taken else None

    def as_row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plan, time = self.memory.plan, self.time
        return {
            "name": self.layout.name,
            **asdict(self.layout),
            "fits": self.level is not Level.BLOCKER,
            "tight": self.level is Level.WARNING,
            "memory": asdict(plan)
            | {"update": plan.update, "rollout": plan.rollout}
            | {"server": self.memory.server, "total": self.memory.total},
            "rows": self.memory.rows,
            "seconds": asdict(time) | {"rollout": time.rollout, "total": time.total},
            "days": self.days,
            "gpu_hours": self.gpu_hours,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run on a cluster."""

    model: str
    shape: ModelShape
    shape_source: str
    cluster: Cluster
    dtype: str
    work: BatchWork
    batches: int
    assumptions: Assumptions
    measured: Sequence[str]
    """Assumptions that were measured."""
    engine: str
    """``model.engine`` of the run."""
    adapter: bool
    """Whether the run trains an adapter."""
    layouts: Sequence[LayoutPlan]

    @property
    def room(self) -> float:
        """Bytes of a GPU that can be filled."""
        return self.cluster.gpu.memory * self.assumptions.usable

    @property
    def fitting(self) -> list[LayoutPlan]:
        """Those that fit, the fastest first."""
        found = [plan for plan in self.layouts if plan.level is not Level.BLOCKER]
        return sorted(found, key=lambda plan: plan.time.total)

    @property
    def suitable(self) -> list[LayoutPlan]:
        """Those that fit and train what the run trains, the fastest first."""
        return [plan for plan in self.fitting if plan.layout.adapter == self.adapter]

    @property
    def best(self) -> LayoutPlan | None:
        """The first that is as fast as the fastest, give or take what such an estimate cannot tell apart."""
        fastest = self.suitable[0].time.total if self.suitable else 0.0
        return next(
            (plan for plan in self.layouts if plan in self.suitable and plan.time.total <= ALIKE * fastest), None
        )

    def as_row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model,
            "shape": asdict(self.shape) | {"source": self.shape_source},
            "cluster": asdict(self.cluster),
            "dtype": self.dtype,
            "room": self.room,
            "batch": asdict(self.work),
            "batches": self.batches,
            "assumptions": self.assumptions.as_row(),
            "measured": list(self.measured),
            "layouts": [
                plan.as_row() | {"gpu_memory_utilization": plan.utilization(self.cluster.gpu)} for plan in self.layouts
            ],
        }


def plan_run(
    config: RunConfig,
    *,
    cluster: Cluster,
    assumptions: Assumptions | None = None,
    measured: Sequence[str] = (),
    servers: int | None = None,
    sharding: Sharding | None = None,
) -> RunPlan:
    """Plan a run; nothing is loaded and nobody is asked, but the hub for the shape of a model that is not known here.

    Args:
        config: The run.
        cluster: Where it is to run.
        assumptions: Figures of the estimate.
        measured: Which of them were measured.
        servers: GPUs that a vLLM server gets; None: a quarter of all.
        sharding: Only this way to share the model.

    Raises:
        ConfigError: The model's shape is not known.
    """
    assumptions = assumptions or Assumptions()
    shape, source = plan_shape(config.model, lora=replace(config.lora, rank=None))
    adapted, _ = plan_shape(config.model, lora=replace(config.lora, rank=config.lora.rank or DEFAULT_RANK))
    training = config.training
    work = batch_work(config, assumptions)
    found = [
        plan_layout(
            config, layout, shape=adapted if layout.adapter else shape, cluster=cluster, work=work,
            assumptions=assumptions,
        )
        for layout in layouts(gpus=cluster.size, servers=servers_of(cluster, servers))
        if sharding in (None, layout.sharding) and layout.adapter >= bool(config.lora.rank)
    ]  # fmt: skip
    return RunPlan(
        model=str(config.model.path),
        shape=shape,
        shape_source=source,
        cluster=cluster,
        dtype=config.model.dtype,
        work=work,
        batches=training.steps // training.updates_per_batch,
        assumptions=assumptions,
        measured=measured,
        engine=config.model.engine,
        adapter=bool(config.lora.rank),
        layouts=found,
    )


def servers_of(cluster: Cluster, servers: int | None) -> int:
    """GPUs of a server: what is asked for, else a quarter of all."""
    return max(1, cluster.size // 4) if servers is None else servers


def batch_work(config: RunConfig, assumptions: Assumptions) -> BatchWork:
    """What a batch of the run consists of."""
    training, rollout = config.training, config.rollout
    work = BatchWork(
        questions=training.questions_per_batch,
        rollouts=training.questions_per_batch * training.num_rollouts,
        searches=min(assumptions.searches, rollout.max_searches),
        prompt=assumptions.prompt_tokens,
        turn=min(assumptions.turn_tokens, rollout.max_turn_tokens),
        observation=min(rollout.top_k * assumptions.document_tokens, rollout.max_observation_tokens),
        longest_turn=rollout.max_turn_tokens,
        updates=training.updates_per_batch,
        epochs=training.epochs,
        micro_batch=1,
        checkpointing=training.activation_checkpointing,
        rescored=True,
        compared=training.beta > 0,
    )
    return replace(work, micro_batch=max(1, int(training.micro_batch_tokens // work.episode)))


def engine_share(config: RunConfig, cluster: Cluster) -> EngineShare:
    """What ``model.engine_args`` says about memory and GPUs of vLLM."""
    from calibadv.models.open_policy import read_engine_args

    given = read_engine_args(config.model.engine_args)
    share = given.get("gpu_memory_utilization")
    taken = None if share is None else int(float(share) * cluster.gpu.memory)
    return EngineShare(bytes=taken, tensor_parallel=int(given.get("tensor_parallel_size", 1)))


def plan_layout(
    config: RunConfig, layout: Layout, *, shape: ModelShape, cluster: Cluster, work: BatchWork, assumptions: Assumptions
) -> LayoutPlan:
    """Memory and time of one layout."""
    dtype, training, engine = config.model.dtype, config.training, engine_share(config, cluster)
    room = cluster.gpu.memory * assumptions.usable
    memory = layout_memory(
        shape,
        layout,
        room=room,
        lengths=Lengths(prompt=work.prompt, turn=work.turn, observation=work.observation),
        rollout=config.rollout,
        training=training,
        dtype=dtype,
        most_rows=partial(most_rows, layout=layout, model=config.model, shape=shape),
        activations=assumptions.activations,
        engine=engine,
    )
    level = Level.OK
    if memory.least > TIGHT * cluster.gpu.memory:
        level = Level.WARNING if memory.total <= room else Level.BLOCKER
    exact = layout.engine == "transformers" and dtype not in HALF and config.rollout.temperature == 1
    return LayoutPlan(
        layout=layout,
        memory=memory,
        level=level,
        time=batch_time(
            shape,
            replace(work, rescored=not exact),
            sharding=layout.sharding,
            engine=layout.engine,
            processes=layout.processes,
            writers=layout.servers or layout.processes,
            rows=memory.rows,
            dtype=dtype,
            adapter=layout.adapter,
            cluster=cluster,
            assumptions=assumptions,
            tensor_parallel=engine.tensor_parallel,
        ),
        gpus=cluster.size,
        batches=training.steps // training.updates_per_batch,
    )


def most_rows(free: int, *, layout: Layout, model: ModelConfig, shape: ModelShape) -> int:
    """Turns that an engine writes at once: ``model.max_rows``, or what it takes with so many bytes free."""
    from calibadv.rollout.policies import kv_room, transformers, vllm, vllm_server

    if model.max_rows is not None:
        return model.max_rows
    if layout.engine == "transformers":
        longest = model.max_context or shape.max_context
        if longest is None:
            return transformers.DEFAULT_ROWS
        return kv_room.rows_that_fit(free=free, row_bytes=longest * kv_bytes_per_token(shape, dtype=model.dtype))
    return vllm.DEFAULT_ROWS if layout.engine == "vllm" else vllm_server.DEFAULT_ROWS
