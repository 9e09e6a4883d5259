"""Writing checkpoints and models so that a full disk or a kill costs nothing that was there before.

A checkpoint counts once its files are on the disk and listed with their digests. One that cannot be written is removed
again and the error says what to do; older ones go only after a newer one is complete. A model folder is written beside
its place and renamed.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer

from calibadv.data.run_files import BEST_RECORD, checkpoint_folder, checkpoints
from calibadv.errors import SaveError
from calibadv.io.files import new_folder, write_json
from calibadv.models.lora import save_merged
from calibadv.models.quantization import is_quantized
from calibadv.models.whole import whole_policy
from calibadv.training.checkpoint_files import begin_checkpoint, problem_of, seal_checkpoint
from calibadv.training.checkpoints import last_checkpoint
from calibadv.training.process_group import is_lost_process

logger = logging.getLogger(__name__)

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Of an OSError: the disk does not take what was written."""


class SafeCheckpoints(Trainer):
    """Override: ``_save_checkpoint`` lists what it wrote, explains and removes a failure, keeps the newest."""

    keep_checkpoints: int | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.args.output_dir is not None
        run_dir = Path(self.args.output_dir)
        folder = checkpoint_folder(run_dir, self.state.global_step)
        with removed_on_failure(folder):
            if self.is_world_process_zero():
                begin_checkpoint(folder)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # every process has files of its own in it
            if self.is_world_process_zero():
                seal_checkpoint(folder)
        if self.is_world_process_zero() and self.keep_checkpoints is not None:
            forget_old(run_dir, keep=self.keep_checkpoints)


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove ``folder`` when writing it fails, and raise `SaveError`; whatever was complete before stays."""
    try:
        with explained(folder):
            yield
    except SaveError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise `SaveError` when ``folder`` cannot be written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_lost_process(error):
            raise
        raise SaveError(explain(error, folder)) from error


def explain(error: Exception, folder: Path) -> str:
    """Why a folder could not be written, what is left and what helps."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    free = shutil.disk_usage(folder.parent).free
    last = last_checkpoint(folder.parent)
    back = f"; --resume continues from {last}" if last is not None else ""
    return (
        f"{folder} could not be written ({reason}; {free / 1e6:,.0f} MB are free there). Make room, or set "
        f"training.keep_checkpoints or another training.output{back}"
    )


def forget_old(run_dir: Path, *, keep: int) -> None:
    """Delete all complete checkpoints but the newest ``keep``."""
    complete = [path for path in checkpoints(run_dir) if problem_of(path) is None]
    for path in complete[keep:]:
        shutil.rmtree(path)


def save_policy(
    model: Any, tokenizer: Any, folder: Path, *, record: Mapping[str, Any] | None = None, writes: bool = True
) -> None:
    """The policy as a Hugging Face folder (an adapter merged into the weights); ``record`` goes into best.json.

    The folder is replaced in one go; when the new one cannot be written, the old one stays. With several processes all
    call it and one ``writes``.
    """
    quantized = is_quantized(model)
    weights = None if quantized else whole_policy(model, keep=writes)
    if not writes:
        return
    with explained(folder), new_folder(folder, replace=True) as partial:
        if quantized:  # nothing can be merged into 4 bits: the folder holds the adapter, and names its base
            model.save_pretrained(partial)
        else:
            save_merged(model, partial, weights=weights)
        tokenizer.save_pretrained(partial)
        if record is not None:
            write_json(partial / BEST_RECORD, dict(record))
    logger.debug("Wrote %s", folder)
