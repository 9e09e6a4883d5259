"""What ``benchmarks/gpu.py`` measured, in the place of assumptions.

- tokens a second of updates give ``update_mfu``, of forward passes alone ``forward_mfu``
- steps a second of our engine, at the fewest rows, give ``eager_layer_ms``
- peak memory of an update beside the doctor's estimate gives ``activations``
- exact search and re-ranking give ``searches_per_s``: one GPU that does one after the other

Of several models the largest counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.doctor.plan.assumptions import Assumptions
from calibadv.doctor.plan.batch_time import forward_flops, update_passes
from calibadv.doctor.plan.hardware import Cluster, Gpu, find_gpu
from calibadv.errors import ConfigError, DataError, first_line
from calibadv.models.config import ModelConfig
from calibadv.models.lora import LoraConfig
from calibadv.models.sizes import ModelShape, plan_shape

CANDIDATES = 20
"""Documents of a search that are re-ranked, as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A GPU and the assumptions that need not be made about it."""

    gpu: Gpu
    values: dict[str, float]
    """Field of `Assumptions` -> what was measured."""


def read_measured(path: Path) -> Measured:
    """Read the JSON of ``benchmarks/gpu.py``; parts that did not run leave their assumptions as they are."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        name, parts = str(report["device"]["name"]), dict(report["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"--measured {path}: not a report of benchmarks/gpu.py ({type(error).__name__}: {first_line(error)}); "
            "make one with --out"
        ) from error
    gpu = find_gpu(name)
    try:
        values = {
            **from_updates(rows_of(parts, "update"), gpu=gpu),
            **from_decoding(rows_of(parts, "decode")),
            **from_searching(rows_of(parts, "search"), rows_of(parts, "rerank")),
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise DataError(
            f"--measured {path}: a row lacks what is needed ({type(error).__name__}: {first_line(error)}); is it from "
            "this version's benchmarks/gpu.py?"
        ) from error
    checked = Assumptions(**values)  # type: ignore[arg-type]  # checked by the class
    return Measured(gpu=gpu, values={name: getattr(checked, name) for name in values})


def plan_cluster(
    *, gpu: str | None, gpus: int | None, nodes: int = 1, measured: Path | None = None, changes: Sequence[str] = ()
) -> tuple[Cluster, Assumptions, list[str]]:
    """Machines, assumptions, and which of these were measured, as the command line asks for them.

    Raises:
        ConfigError: No GPU or number of GPUs is named, one that is not known, another than was measured, or an
            impossible assumption.
        DataError: The report cannot be used.
    """
    found = None if measured is None else read_measured(measured)
    if gpu is None and found is None:
        raise ConfigError("--gpus needs --gpu, the kind of GPU, such as --gpu h100 (or --measured)")
    if gpus is None:
        raise ConfigError("a plan needs --gpus, the GPUs of a machine, such as --gpus 8")
    kind = found.gpu if gpu is None and found is not None else find_gpu(str(gpu))
    if found is not None and found.gpu != kind:
        raise ConfigError(f"--gpu {gpu}: {measured} was measured on {found.gpu.name}; leave --gpu or --measured out")
    values = {} if found is None else found.values
    assumptions = Assumptions.read(changes, base=values)
    changed = {change.partition("=")[0].strip() for change in changes}
    return Cluster(gpu=kind, gpus=gpus, nodes=nodes), assumptions, [name for name in values if name not in changed]


def rows_of(parts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a part; none where it failed or did not run."""
    return list(parts.get(name, {}).get("rows", []))


def shape_of_row(row: dict[str, Any]) -> ModelShape:
    """The shape of the model that a row was measured with."""
    return plan_shape(ModelConfig(path=row["model"]), lora=LoraConfig())[0]


def from_updates(rows: list[dict[str, Any]], *, gpu: Gpu) -> dict[str, float]:
    """Utilisation and memory of the largest model, with our micro-batches."""
    ours = [row for row in rows if row["batching"] == "ours"]
    if not ours:
        return {}
    row = max(ours, key=lambda row: int(row["parameters"]))
    flops = forward_flops(shape_of_row(row), tokens=row["tokens"], scored=row["scored"], length=row["length"])
    passes = update_passes(adapter=False, checkpointing=row["checkpointing"])
    return {
        "update_mfu": passes * flops / row["seconds"] / gpu.flops,
        "forward_mfu": flops / row["forward_seconds"] / gpu.flops,
        "activations": row["measured_activations"] / row["estimated_activations"],
    }


def from_decoding(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The time of a step where launching kernels is all that counts."""
    if not rows:
        return {}
    row = min(rows, key=lambda row: float(row["step_s"]) / int(row["layers"]))
    return {"eager_layer_ms": 1e3 * row["step_s"] / row["layers"]}


def from_searching(search: list[dict[str, Any]], rerank: list[dict[str, Any]]) -> dict[str, float]:
    """Searches a second of one GPU that searches all vectors and re-ranks what it found."""
    if not search or not rerank:
        return {}
    queries = max(float(row["queries_per_s"]) for row in search)
    pairs = max(float(row["pairs_per_s"]) for row in rerank)
    return {"searches_per_s": 1 / (1 / queries + CANDIDATES / pairs)}
