"""What a resumed run starts from: the newest complete checkpoint, and records that end where it was saved.

One that a kill cut short or a disk damaged is skipped (`calibadv.training.checkpoint_files`). Its ``.pt`` and ``.pth``
files are torch pickles, which transformers only loads with ``weights_only=True``: they can hold tensors and plain
values, no code.
"""

from __future__ import annotations

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
from calibadv.errors import DataError
from calibadv.training.checkpoint_files import problem_of, was_sealed

logger = logging.getLogger(__name__)


def last_checkpoint(folder: Path, *, verify: bool = False) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none (the run then starts from the beginning).

    ``verify`` also compares the digests of its files, which reads all of them.
    """
    for checkpoint in checkpoints(folder):
        problem = problem_of(checkpoint, verify=verify)
        if problem is None:
            return checkpoint
        logger.warning("%s is incomplete or damaged (%s): going back to the one before", checkpoint, problem)
    return None


def checkpoint_to_resume(folder: Path, *, verify: bool = True) -> Path | None:
    """`last_checkpoint`; `DataError` where all that were complete are damaged: a run must not lose its records so."""
    checkpoint = last_checkpoint(folder, verify=verify)
    damaged = [path for path in checkpoints(folder) if was_sealed(path)]
    if checkpoint is None and damaged:
        raise DataError(
            f"--resume: every checkpoint in {folder} is damaged; bring the files of {damaged[0]} back, or start a new "
            "run in a new folder (--set training.output=DIR)"
        )
    return checkpoint


def newest_model(run_dir: Path) -> Path | None:
    """What a run has trained so far: its model, else its newest complete checkpoint; None when there is neither."""
    return run_dir / MODEL if (run_dir / MODEL).is_dir() else last_checkpoint(run_dir, verify=True)


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
