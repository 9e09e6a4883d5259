"""A plan as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from calibadv.doctor.check import Level
from calibadv.doctor.plan.make_plan import LayoutPlan, RunPlan

FITS = {Level.OK: "yes", Level.WARNING: "tight", Level.BLOCKER: "no"}
PARTS = {
    "weights": "weights", "gradients": "grads", "optimizer": "moments", "buckets": "buckets",
    "reference": "reference", "half_copies": "copies",
    "gathered": "gathered", "activations": "activ.", "logits": "logits", "engine": "engine", "kv_cache": "KV",
}  # fmt: skip


def plan_text(plan: RunPlan) -> str:
    """The whole plan."""
    return "\n\n".join([headline(plan), memory_table(plan), time_table(plan), verdict(plan), assumptions(plan)])


def headline(plan: RunPlan) -> str:
    """Model, cluster and batch in three lines."""
    shape, cluster, work = plan.shape, plan.cluster, plan.work
    nodes = f"{cluster.nodes} x {cluster.gpus}" if cluster.nodes > 1 else str(cluster.gpus)
    return (
        f"{plan.model}: {shape.parameters / 1e6:,.1f} M parameters ({plan.shape_source}), {plan.dtype}\n"
        f"{nodes} x {cluster.gpu.name}: {plan.room / 2**30:.1f} GiB of {cluster.gpu.memory / 2**30:.1f} usable, "
        f"{cluster.gpu.flops / 1e12:,.0f} TFLOP/s, {cluster.gpu.bandwidth / 1e12:.2f} TB/s\n"
        f"{plan.batches} batches of {work.rollouts:,} rollouts: {work.tokens / 1e6:.1f} M tokens, of which "
        f"{work.written / 1e6:.1f} M are written; {work.rollouts * work.searches:,.0f} searches, {work.updates} updates"
    )


def memory_table(plan: RunPlan) -> str:
    """GiB of a GPU, by layout and part."""
    used = [name for name in PARTS if any(getattr(found.memory.plan, name) for found in plan.layouts)]
    header = ["memory of a GPU (GiB)", *(PARTS[name] for name in used), "update", "rollout", "fits"]
    rows = []
    for found in plan.layouts:
        memory = found.memory.plan
        sizes = [getattr(memory, name) for name in used] + [memory.update, memory.rollout]
        rows.append([found.layout.name, *(gib(size) for size in sizes), FITS[found.level]])
    return as_table(header, rows)


def time_table(plan: RunPlan) -> str:
    """Seconds of a batch, by layout and part."""
    parts = ["generate", "search", "wait", "logprobs", "update", "comm.", "sync"]
    header = ["seconds of a batch", "rows", *parts, "batch", "days", "GPU h"]
    rows = [time_row(found) for found in plan.layouts if found.level is not Level.BLOCKER]
    return as_table(header, rows) if rows else "nothing fits: no times"


def time_row(found: LayoutPlan) -> list[str]:
    """One layout's line."""
    time = found.time
    parts = [time.generate, time.search, time.search_wait, time.logprobs, time.update, time.communicate, time.sync]
    return [
        found.layout.name, str(found.memory.rows), *(f"{part:.1f}" for part in parts), f"{time.total:.0f}",
        f"{found.days:.2f}", f"{found.gpu_hours:,.0f}",
    ]  # fmt: skip


def verdict(plan: RunPlan) -> str:
    """What to take, what the run's own engine would do, and what helps where nothing fits."""
    best = plan.best
    if best is None:
        if plan.fitting:
            return f"Only an adapter fits (set lora.rank): {described(plan.fitting[0])}."
        return (
            "Nothing fits. Lower training.micro_batch_tokens, set training.activation_checkpointing = true, take more "
            "or larger GPUs, or a smaller model."
        )
    lines = [f"Best that fits: {described(best)}. Evaluations and checkpoints are not counted."]
    share = best.utilization(plan.cluster.gpu)
    if best.layout.engine == "vllm" and share:
        lines.append(f'It is reckoned with model.engine_args = ["gpu_memory_utilization={share:.2f}"].')
    own = [found for found in plan.suitable if found.layout.engine == plan.engine]
    if best not in own:
        instead = described(own[0]) if own else "fits in none of these ways"
        lines.append(f'With the run\'s own model.engine = "{plan.engine}": {instead}.')
    return "\n".join(lines)


def described(found: LayoutPlan) -> str:
    """A layout with what it takes, in words."""
    memory = found.memory.total / 2**30
    return (
        f"{found.layout.name}: {memory:.0f} GiB of a GPU, {found.time.total:.0f} s a batch, {found.days:.1f} days, "
        f"{found.gpu_hours:,.0f} GPU hours"
    )


def assumptions(plan: RunPlan) -> str:
    """Every figure that was assumed, and which were measured."""
    values = asdict(plan.assumptions)
    guessed = [f"{name}={value:g}" for name, value in values.items() if name not in plan.measured]
    known = [f"{name}={values[name]:.3g}" for name in plan.measured]
    lines = ["assumed (--assume NAME=VALUE changes one, benchmarks/gpu.py measures some):", *wrapped(guessed)]
    return "\n".join(lines + (["measured:", *wrapped(known)] if known else []))


def wrapped(words: Sequence[str], *, width: int = 110) -> list[str]:
    """Words in indented lines."""
    lines = ["  "]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("  ")
        lines[-1] += f"{word}  "
    return [line.rstrip() for line in lines]


def gib(size: float) -> str:
    """
    >>> gib(3 * 2**30), gib(0)
    ('3.0', '-')
    """
    return f"{size / 2**30:.1f}" if size else "-"


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [header, *rows]]
    firsts = [row[0].ljust(widths[0]) for row in [header, *rows]]
    return "\n".join("  ".join([first, *cells[1:]]) for first, cells in zip(firsts, lines, strict=True))
