"""The folder of a lab: one lab at a time, an older one is moved aside, nothing is overwritten."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from calibadv.data.run_files import CONFIG
from calibadv.errors import ConfigError
from calibadv.io.files import try_lock

logger = logging.getLogger(__name__)

DEFAULT = Path("runs/lab")
LOCK = ".lock"


def new_folder(out: Path | None) -> Path:
    """The empty folder of a new lab; an older one at the default place moves aside, with its date."""
    folder = DEFAULT if out is None else out
    if not folder.exists() or (folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())):
        return folder
    if out is not None:
        raise ConfigError(f"--out {out} is not an empty folder; name a new one, or continue that lab with --resume")
    date = datetime.fromtimestamp(folder.stat().st_mtime)  # before the lock changes it
    with locked(folder):
        aside = free_name(folder, date)
        folder.rename(aside)
    renew_paths(aside, before=folder)
    logger.info("%s holds an older run, which is now in %s", folder, aside)
    return folder


def free_name(folder: Path, date: datetime) -> Path:
    """``runs/lab`` of that date, with a number where that is taken as well."""
    dated = folder.with_name(f"{folder.name}-{date:%Y%m%d-%H%M%S}")
    names = (dated, *(dated.with_name(f"{dated.name}-{n}") for n in range(2, 1000)))
    return next(path for path in names if not path.exists())


def renew_paths(folder: Path, *, before: Path) -> None:
    """Let the configs of a folder that was moved name its new place, so that its runs can still be evaluated."""
    old, new = (json.dumps(f"{path.absolute()}/", ensure_ascii=False)[1:-1] for path in (before, folder))
    for path in (*folder.glob("*.toml"), *folder.glob(f"*/{CONFIG}")):
        path.write_text(path.read_text(encoding="utf-8").replace(f'"{old}', f'"{new}'), encoding="utf-8")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lab's lock and give its file descriptor, which the runs inherit.

    So the lock is held until the last run has ended, even when the lab itself was killed: two processes never write
    into one run.
    """
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        if not try_lock(lock):
            raise ConfigError(f"a lab is still running in {folder}; wait for its end, or stop its processes")
        yield lock
    finally:
        os.close(lock)
