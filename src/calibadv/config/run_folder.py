"""A run's folder belongs to one run: a new run needs a new folder, a resumed one must be the run that is there."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from calibadv.config.run_config import RunConfig
from calibadv.data.run_files import CONFIG
from calibadv.errors import ConfigError
from calibadv.io.files import leaves, try_writing, write_text

MAY_CHANGE = frozenset(
    {
        "model.device",
        "retrieval.index_dir",
        "retrieval.url",
        "retrieval.device",
        "retrieval.encoder",
        "retrieval.rerank.batch_size",
        "retrieval.remote.timeout_s",
        "retrieval.remote.wait_s",
        "retrieval.web.cache",
        "retrieval.web.per_second",
        "retrieval.web.timeout_s",
        "rollout.search_retries",
        "rollout.search_timeout_s",
        "training.steps",
        "training.save_every",
        "training.keep_checkpoints",
        "training.eval_every",
        "training.best_metric",
        "training.activation_checkpointing",
        "training.ddp_timeout_s",
        "training.threads",
        "training.report_to",
        "training.output",
        "sft.output",
    }
)
"""Settings that a resumed run may change, like everything in `WITHOUT_PART`; others would make it another run."""

TRIAL_BYTES = 1 << 20
"""Written on trial before a run: a disk without room for that has none for a run."""

Part = Literal["train", "sft"]
WITHOUT_PART: dict[Part, tuple[str, ...]] = {
    "train": ("evaluation.", "sft."),
    "sft": ("evaluation.", "training.", "algorithm.", "calibration.", "reward."),
}
"""Sections that have no part in reinforcement or supervised training."""


def claim_run_folder(config: RunConfig, *, resume: bool, part: Part = "train") -> Path:
    """Check ``training.output``, create it and write the effective config there; the folder's path comes back."""
    folder = config.training.output
    if not is_main_process():
        return folder  # several processes train one run: the first one claims the folder for all
    check_run_folder(config, resume=resume, part=part)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, config.to_toml())
    return folder


def check_run_folder(config: RunConfig, *, resume: bool, part: Part = "train") -> None:
    """Refuse the folder of another run, to resume what is not this run, and a folder that nothing can be written to."""
    folder = config.training.output
    setting = "training.output" if part == "train" else "sft.output"
    if not is_main_process():
        return
    try:
        if resume:
            check_same_run(config, folder / CONFIG, part=part)
        else:
            check_empty(folder, setting=setting)
        try_writing(folder, num_bytes=TRIAL_BYTES)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ConfigError(
            f"{setting} {folder}: nothing can be written there ({error.strerror}); "
            f"{'make room, or name' if full else 'name'} another folder (--set {setting}=DIR)"
        ) from error


def check_empty(folder: Path, *, setting: str) -> None:
    """Refuse a folder that already holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        is_run = (folder / CONFIG).exists()
        what = "the folder of another run" if is_run else "not an empty folder"
        raise ConfigError(
            f"{setting} {folder} is {what}; name a new folder (--set {setting}=DIR)"
            + (", continue that run (--resume), or remove it" if is_run else "")
        )


def is_main_process() -> bool:
    """Whether this is the first of the processes that train a run (accelerate and torchrun number them)."""
    return os.environ.get("RANK", "0") == "0"


def check_same_run(config: RunConfig, saved: Path, *, part: Part = "train") -> None:
    """Refuse to resume a run with settings that are not its own."""
    if not saved.is_file():
        raise ConfigError(f"--resume: {saved.parent} holds no run (it has no {CONFIG}); name the folder of one")
    before, now = (dict(leaves(c.effective())) for c in (RunConfig.read(saved), config))
    changed = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in before | now
        if before.get(key) != now.get(key) and key not in MAY_CHANGE and not key.startswith(WITHOUT_PART[part])
    ]
    if changed:
        raise ConfigError(
            f"--resume: the run in {saved.parent} has other settings: {'; '.join(changed)}. "
            "Resume it with its own settings, or start a new run in a new folder"
        )
