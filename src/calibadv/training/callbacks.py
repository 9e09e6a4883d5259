"""Trainer callbacks: skip updates that would poison the weights, and write one metrics line per batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calibadv.io.files import append_json_line
from calibadv.training.no_signal import NoSignalError, all_skipped_message


class SkipNonFiniteUpdate(TrainerCallback):
    """Drop an update in which any gradient is not finite; the optimizer then leaves weights and moments alone.

    When ``max_batches`` batches in a row, or a whole run, changed nothing, it raises `NoSignalError` between batches.
    """

    def __init__(self, *, updates_per_batch: int, max_batches: int) -> None:
        self.updates_per_batch = updates_per_batch
        self.max_batches = max_batches
        self.skipped = 0
        """Updates skipped so far."""
        self._made = 0
        self._in_a_row = 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer after clipping, before ``optimizer.step``."""
        parameters = [p for p in kwargs["model"].parameters() if p.grad is not None]
        if all_finite([p.grad for p in parameters if p.grad is not None]):
            self._made += 1
            self._in_a_row = 0
            return
        self.skipped += 1
        self._in_a_row += 1
        for parameter in parameters:
            parameter.grad = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the rollouts of the next batch; the state is that of the last one and can be saved."""
        if state.global_step % self.updates_per_batch == 0:
            self._check()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A run that changed nothing is no success."""
        self._check()
        if self.skipped and not self._made:
            raise NoSignalError(all_skipped_message(self.skipped))

    def _check(self) -> None:
        if self._in_a_row >= self.max_batches * self.updates_per_batch:
            raise NoSignalError(f"stopped: {all_skipped_message(self._in_a_row)}")


def all_finite(gradients: Sequence[torch.Tensor]) -> bool:
    """Whether all values are finite; of sharded gradients in all processes, which must all ask."""
    shares = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    finite = all(bool(torch.isfinite(share).all()) for share in shares)
    sharded = next((g for g in gradients if isinstance(g, DTensor)), None)
    if sharded is None:
        return finite
    verdict = torch.tensor(float(finite), device=shares[0].device)
    torch.distributed.all_reduce(verdict, op=torch.distributed.ReduceOp.MIN, group=sharded.device_mesh.get_group())
    return bool(verdict)


class WhenWeightsChange(TrainerCallback):
    """Calls ``changed`` after every optimizer step, and when a run begins (it may have loaded a checkpoint)."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The weights are the first ones, or a checkpoint's."""
        self.changed()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer has just updated the weights."""
        self.changed()


UPDATE_METRICS = {
    "loss": ("loss",),
    "grad_norm": ("grad_norm",),
    "lr": ("learning_rate",),
    "clip_fraction": ("clip_ratio/region_mean", "cispo_clip_ratio"),
    "clip_low": ("clip_ratio/low_mean",),
    "clip_high": ("clip_ratio/high_mean",),
    "update_entropy": ("entropy",),
    "kl": ("kl",),
}
"""Our metrics of an update and where the Trainer logs each (the first that is there)."""
ENGINE_METRICS = {
    "logprob_gap": "sampling/sampling_logp_difference/mean",
    "logprob_gap_max": "sampling/sampling_logp_difference/max",
    "correction_mean": "sampling/importance_sampling_ratio/mean",
    "correction_min": "sampling/importance_sampling_ratio/min",
    "correction_max": "sampling/importance_sampling_ratio/max",
}
"""Metrics of a batch that only another engine than the model itself has."""


class BatchMetrics(TrainerCallback):
    """One JSON line in ``metrics.jsonl`` per batch, at its last optimizer step.

    ``pending`` holds what was measured when the batch was generated; the Trainer's own logs of the batch's updates
    (`UPDATE_METRICS`) are averaged into the line.
    """

    def __init__(self, path: Path, *, updates_per_batch: int, finish: Callable[[], dict[str, Any]]) -> None:
        self.path = path
        self.updates_per_batch = updates_per_batch
        self.finish = finish
        """Called at the end of a batch: metrics known only then (skipped updates, seconds)."""
        self.pending: dict[str, Any] = {}
        self._updates: list[dict[str, float]] = []
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        """Called with every finished line (progress display)."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Time spent on setting up belongs to no batch."""
        self.finish()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Collect an update's log; write the line once the batch is complete."""
        logs = kwargs.get("logs") or {}
        if "loss" not in logs or not state.is_world_process_zero:
            return
        self._updates.append(logs)
        if state.global_step % self.updates_per_batch:
            return
        line: dict[str, Any] = {"step": state.global_step, "batch": state.global_step // self.updates_per_batch}
        line |= self.pending
        for ours, theirs in UPDATE_METRICS.items():
            values = [u[name] for u in self._updates for name in theirs if u.get(name) is not None]
            finite = [v for v in values if math.isfinite(v)]
            line[ours] = sum(finite) / len(finite) if finite else None
        for ours, name in ENGINE_METRICS.items():
            found = [update[name] for update in self._updates if name in update]
            if found:
                line[ours] = found[-1]
        line |= self.finish()
        append_json_line(self.path, line)
        self._updates.clear()
        for listener in self.listeners:
            listener(line)
