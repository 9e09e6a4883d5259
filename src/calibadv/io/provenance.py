"""What a figure depends on: digests of files, texts and models, and the versions of packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from calibadv.registry import name_of

PACKAGES = ("calibadv", "numpy", "torch", "transformers", "vllm", "trl", "bm25s", "tantivy", "faiss-cpu")
"""Packages that can change a figure."""
_IDENTITY = (".json", ".txt", ".model", ".safetensors", ".bin")
_NO_IDENTITY = frozenset(
    {"data_config.json", "eval_results.json", "trainer_state.json", "training_args.json", "training_args.bin"}
)
_NO_FOLDERS = ("onnx", "openvino")
_CHUNK = 1 << 20
_WHOLE_FILE = 8 << 20
_SAMPLE = 1 << 20


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python and the packages, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path, *, read: Callable[[int], None] | None = None) -> str:
    """Digest of a file's bytes; ``read`` is told of every piece how many bytes it has."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if read is not None:
                read(len(chunk))
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """Digest of a text, half surrogate pairs included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def json_sha256(value: Any) -> str:
    """Digest of a JSON value; the order of keys does not matter."""
    return text_sha256(json.dumps(value, sort_keys=True))


def model_fingerprint(folder: Path, *, files: Iterable[Path] | None = None, whole: bool = False) -> str:
    """Digest of what makes a model: its configuration, tokenizer and weights, or the ``files`` that are named.

    Of large files the size and both ends count, which tells published models apart at no cost. ``whole`` reads every
    byte: two models trained from one base may agree in all of that.
    """
    digest = hashlib.sha256()
    for path in sorted(_identity_files(folder) if files is None else files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\n{size}\n".encode())
        if whole:
            digest.update(file_sha256(path).encode())
            continue
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
            else:
                digest.update(file.read(_SAMPLE))
                file.seek(-_SAMPLE, 2)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def source_of(thing: object) -> dict[str, str]:
    """Where a user's function or object comes from: import path, file, and the file's digest where there is one."""
    named: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    record = {"object": name_of(thing)}
    try:
        file = inspect.getsourcefile(named)
    except TypeError:  # built into the interpreter, or made in a shell
        file = None
    if file is not None and Path(file).is_file():
        record |= {"file": file, "sha256": file_sha256(Path(file))}
    return record


def _identity_files(folder: Path) -> list[Path]:
    """Neither hidden files, nor other formats of the same weights, nor the checkpoints that lie in a run's folder."""

    def counts(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        skipped = any(p.startswith((".", "checkpoint-")) or p in _NO_FOLDERS for p in parts)
        return path.suffix in _IDENTITY and path.name not in _NO_IDENTITY and not skipped and path.is_file()

    return [path for path in folder.rglob("*") if counts(path)]
