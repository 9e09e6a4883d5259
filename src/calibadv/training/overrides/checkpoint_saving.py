"""Writing checkpoints and models so that a full disk or a kill costs nothing that was there before.

A checkpoint that cannot be written is removed again and the error says what to do; older ones go only after a newer one
is complete. A model folder is written beside its place and renamed.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import Trainer

from calibadv.errors import SaveError
from calibadv.models.lora import save_merged
from calibadv.training.checkpoints import checkpoints, last_checkpoint, missing_part

logger = logging.getLogger(__name__)

MODEL, BEST = "model", "best"
BEST_RECORD = "best.json"


class SafeCheckpoints(Trainer):
    """Override: ``_save_checkpoint`` explains a failure, removes what it left, and keeps the newest few."""

    keep_checkpoints: int | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.args.output_dir is not None
        run_dir = Path(self.args.output_dir)
        with removed_on_failure(run_dir / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)
        if self.is_world_process_zero() and self.keep_checkpoints is not None:
            forget_old(run_dir, keep=self.keep_checkpoints)


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove ``folder`` when writing it fails, and raise `SaveError`; whatever was complete before stays."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SaveError(explain(error, folder)) from error


def explain(error: Exception, folder: Path) -> str:
    """Why a folder could not be written, what is left and what helps."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    free = shutil.disk_usage(folder.parent).free
    last = last_checkpoint(folder.parent)
    back = f"; the run goes on from {last} with --resume" if last is not None else ""
    return (
        f"{folder} could not be written ({reason}; {free / 1e6:,.0f} MB are free there). Make room, or set "
        f"training.keep_checkpoints or another training.output{back}"
    )


def forget_old(run_dir: Path, *, keep: int) -> None:
    """Delete all complete checkpoints but the newest ``keep``."""
    complete = [path for path in checkpoints(run_dir) if missing_part(path) is None]
    for path in complete[keep:]:
        shutil.rmtree(path)


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``folder``, then put it in its place."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with removed_on_failure(partial):
        write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def save_policy(model: Any, tokenizer: Any, folder: Path, *, record: Mapping[str, Any] | None = None) -> None:
    """The policy as a Hugging Face folder (an adapter merged into the weights); ``record`` goes into best.json."""

    def write(partial: Path) -> None:
        save_merged(model, partial)
        tokenizer.save_pretrained(partial)
        if record is not None:
            (partial / BEST_RECORD).write_text(json.dumps(dict(record), indent=1) + "\n", encoding="utf-8")

    write_folder(folder, write)
    logger.debug("Wrote %s", folder)
