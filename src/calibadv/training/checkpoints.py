"""What a resumed run starts from: the newest complete checkpoint, and records that end where it was saved.

The Trainer writes a checkpoint file by file into its folder, ``trainer_state.json`` last; one that a kill cut short
lacks files, and is passed over. Its ``.pt`` and ``.pth`` files are torch pickles, which transformers only loads with
``weights_only=True``: they can hold tensors and plain values, no code.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from calibadv.training.callbacks import cut_metrics

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
EVALUATIONS = "eval.jsonl"
TRAJECTORIES = "trajectories"

TRAINER_STATE = "trainer_state.json"
PARTS = {
    "weights": ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_0", "pytorch_model_fsdp.bin"),
    "scheduler": ("scheduler.pt",),
    "random state": ("rng_state.pth", "rng_state_0.pth"),
}
"""Names under which a checkpoint may hold each of its parts."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none (the run then starts anew)."""
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


def checkpoints(folder: Path) -> Iterator[Path]:
    """The checkpoint folders of a run, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and path.name.split("-", 1)[1].isdecimal()]
    yield from sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was saved at.

    >>> checkpoint_step(Path("run/checkpoint-40"))
    40
    """
    return int(checkpoint.name.split("-", 1)[1])


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
        if (folder / name).exists():
            cut_metrics(folder / name, last_step=last_step)
    for path in (folder / TRAJECTORIES).glob("step-*.jsonl.gz"):
        if int(path.name.split("-")[1].split(".")[0]) > last_step:
            path.unlink()
    for path in checkpoints(folder):
        if checkpoint_step(path) > last_step:
            shutil.rmtree(path)
