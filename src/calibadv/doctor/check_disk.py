"""Disk: what checkpoints and the trained model take, and what is free."""

from __future__ import annotations

import shutil
from pathlib import Path

from calibadv.config import RunConfig
from calibadv.doctor.check import TIGHT, Check, Level
from calibadv.doctor.memory import readable
from calibadv.models.sizes import ModelShape


def check_disk(config: RunConfig, shape: ModelShape) -> Check:
    """Checkpoints hold weights (or the adapter) and two moments for every trained parameter, all in float32."""
    settings = config.training
    folder = settings.output
    weights = 4 * (shape.parameters if config.lora.rank is None else shape.trained_parameters)
    checkpoint = weights + 8 * shape.trained_parameters
    saves = max(1, settings.steps // settings.save_every if settings.save_every else 1)
    kept = saves if settings.keep_checkpoints is None else min(saves, settings.keep_checkpoints + 1)
    keeps_best = bool(settings.eval_every) and settings.best_metric != "none"
    needed = kept * checkpoint + (2 if keeps_best else 1) * 4 * shape.parameters
    free = shutil.disk_usage(existing_parent(folder)).free
    level = Level.BLOCKER if needed > free else Level.WARNING if needed > TIGHT * free else Level.OK
    return Check(
        name="disk",
        level=level,
        summary=f"{kept} checkpoints of {readable(checkpoint)} and the trained model take {readable(needed)}; "
        f"{readable(free)} are free at {folder}",
        remedy="set training.keep_checkpoints, save less often (training.save_every), or name another training.output",
        facts={"checkpoint": checkpoint, "kept": kept, "needed": needed, "free": free},
    )


def existing_parent(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
