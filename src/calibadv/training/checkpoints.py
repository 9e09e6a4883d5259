"""What a resumed run starts from: the newest complete checkpoint, and records that end where it was saved.

The Trainer writes a checkpoint file by file into its folder, ``trainer_state.json`` last; one that a kill cut short
lacks files, and is skipped. Its ``.pt`` and ``.pth`` files are torch pickles, which transformers only loads with
``weights_only=True``: they can hold tensors and plain values, no code.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from calibadv.data.run_files import (
    EVALUATIONS,
    METRICS,
    MODEL,
    checkpoint_step,
    checkpoints,
    cut_metrics,
    trajectory_files,
    trajectory_step,
)

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
PARTS = {
    "weights": ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_0", "pytorch_model_fsdp.bin"),
    "scheduler": ("scheduler.pt",),
    "random state": ("rng_state.pth", "rng_state_0.pth"),
}
"""Names under which a checkpoint may hold each of its parts."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none (the run then starts from the beginning)."""
    for checkpoint in checkpoints(folder):
        missing = missing_part(checkpoint)
        if missing is None:
            return checkpoint
        logger.warning(
            "%s is incomplete (no %s): the run was stopped while writing it. Going back to the one before",
            checkpoint,
            missing,
        )
    return None


def newest_model(run_dir: Path) -> Path | None:
    """What a run has trained so far: its model, else its newest complete checkpoint; None when there is neither."""
    return run_dir / MODEL if (run_dir / MODEL).is_dir() else last_checkpoint(run_dir)


def missing_part(checkpoint: Path) -> str | None:
    """Name a part that a checkpoint lacks; None when it is complete."""
    for part, names in PARTS.items():
        if not any((checkpoint / name).exists() for name in names):
            return part
    try:
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
        return None if state["global_step"] == checkpoint_step(checkpoint) else TRAINER_STATE
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return TRAINER_STATE


def forget_after(folder: Path, checkpoint: Path | None) -> None:
    """Drop what the interrupted run left behind after its last checkpoint: the resumed run makes it again."""
    last_step = -1 if checkpoint is None else checkpoint_step(checkpoint)
    for name in (METRICS, EVALUATIONS):
        cut_metrics(folder / name, last_step=last_step)
    for path in trajectory_files(folder):
        if trajectory_step(path) > last_step:
            path.unlink()
    for path in checkpoints(folder):
        if checkpoint_step(path) > last_step:
            shutil.rmtree(path)
