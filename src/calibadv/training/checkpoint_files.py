"""What makes a checkpoint complete: a list of its files with sizes and digests, written when all are on the disk.

`begin_checkpoint` writes an empty list before the first file, `seal_checkpoint` the whole one after the last. Sizes are
compared whenever a checkpoint is looked at, digests when a run resumes from it. A checkpoint of an earlier version has
no list: its files must at least be there and open.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from calibadv.data.run_files import CHECKPOINT_FILES, checkpoint_step
from calibadv.io.files import sync_file, sync_folder, write_json
from calibadv.io.provenance import file_sha256

TRAINER_STATE = "trainer_state.json"
PARTS = {
    "weights": ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_0", "pytorch_model_fsdp.bin"),
    "scheduler": ("scheduler.pt",),
    "random state": ("rng_state.pth", "rng_state_0.pth"),
}
"""Names under which a checkpoint of an earlier version may hold each of its parts."""
READERS = 4
"""Files whose digest is computed at once; one thread reads about 1 GB/s."""


def begin_checkpoint(folder: Path) -> None:
    """Note that files are about to be written: until `seal_checkpoint` the checkpoint is incomplete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CHECKPOINT_FILES, {"files": None}, sync=True)


def seal_checkpoint(folder: Path) -> None:
    """Bring all files to the disk, then list them; only now the checkpoint counts as complete."""
    paths = list(files_of(folder))
    for path in paths:
        sync_file(path)
    for inside in {path.parent for path in paths}:
        sync_folder(inside)
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests(paths), strict=True)
    }
    write_json(folder / CHECKPOINT_FILES, {"files": files}, sync=True)
    sync_folder(folder)
    sync_folder(folder.parent)


def was_sealed(checkpoint: Path) -> bool:
    """Whether a checkpoint was complete once, whatever became of its files."""
    return isinstance(json_object(checkpoint / CHECKPOINT_FILES).get("files"), dict)


def problem_of(checkpoint: Path, *, verify: bool = False) -> str | None:
    """Why a checkpoint cannot be used, with the name of the file; None when it can. ``verify`` reads every byte."""
    record = checkpoint / CHECKPOINT_FILES
    if not record.exists():
        return missing_part(checkpoint) or unreadable_file(checkpoint) or wrong_step(checkpoint)
    files = json_object(record).get("files")
    if not isinstance(files, dict):
        return f"{CHECKPOINT_FILES} does not list the files: the run was stopped while writing them"
    try:
        return changed_file(checkpoint, files, verify=verify) or wrong_step(checkpoint)
    except (OSError, KeyError, TypeError) as error:
        return f"{CHECKPOINT_FILES} or a file that it lists cannot be read ({error})"


def changed_file(checkpoint: Path, files: dict[str, dict[str, Any]], *, verify: bool) -> str | None:
    """The first of the listed files that is not what was written."""
    for name, written in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"no {name}"
        if path.stat().st_size != written["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, {written['bytes']:,} were written"
    if verify:
        for (name, written), digest in zip(files.items(), digests([checkpoint / n for n in files]), strict=True):
            if digest != written["sha256"]:
                return f"{name} holds other bytes than were written (sha256)"
    return None


def missing_part(checkpoint: Path) -> str | None:
    """A part that is not there at all."""
    parts = (part for part, names in PARTS.items() if not any((checkpoint / name).exists() for name in names))
    return next((f"no {part}" for part in parts), None)


def unreadable_file(checkpoint: Path) -> str | None:
    """A file that does not even open: cut short, or empty."""
    from safetensors import SafetensorError, safe_open

    for path in files_of(checkpoint):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                zipfile.ZipFile(path).close()
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.relative_to(checkpoint)} cannot be read: {error}"
    return None


def wrong_step(checkpoint: Path) -> str | None:
    """The state must be that of the step in the folder's name."""
    step = json_object(checkpoint / TRAINER_STATE).get("global_step")
    return None if step == checkpoint_step(checkpoint) else f"{TRAINER_STATE} is not that of this step"


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def files_of(checkpoint: Path) -> Iterator[Path]:
    """Everything in a checkpoint but the list itself, in order of name."""
    found = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return (path for path in found if path != checkpoint / CHECKPOINT_FILES)


def digests(paths: list[Path]) -> list[str]:
    """The digests of files, several at once."""
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        return list(pool.map(file_sha256, paths))
