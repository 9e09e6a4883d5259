"""What an import reads: files, folders and data sets of the Hugging Face hub, as a list of files in a fixed order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibadv.errors import DataError
from calibadv.retrieval.corpus.importing.hub import download_dataset
from calibadv.retrieval.corpus.importing.one_set import check_one_set
from calibadv.retrieval.corpus.manifest import CORPUS

SourceKind = Literal["jsonl", "parquet", "text"]
_ENDINGS: tuple[tuple[str, SourceKind], ...] = (
    (".jsonl", "jsonl"),
    (".jsonl.gz", "jsonl"),
    (".parquet", "parquet"),
    (".txt", "text"),
    (".md", "text"),
)
KNOWN = ".jsonl, .jsonl.gz, .parquet, .txt or .md"
_HUB_URL = re.compile(r"hf://(?:datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>.+?))?/?")
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+))?(?P<inside>)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file to read."""

    path: Path
    kind: SourceKind
    size: int
    """Bytes."""
    document_id: str
    """Id of a text file's document: its path below the folder that was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that is read, in order."""

    names: tuple[str, ...]
    """As they were named; data sets with the revision that was read."""
    files: tuple[SourceFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def find_sources(named: Sequence[Path | str]) -> Sources:
    """The files behind paths and data set ids; DataError when there are none or it is not clear which."""
    names: list[str] = []
    files: list[SourceFile] = []
    notes: list[str] = []
    for one in named:
        found = _find(str(one))
        names += found.names
        files += found.files
        notes += found.notes
    if not files:
        raise DataError("nothing to import: name files, folders or a data set of the Hugging Face hub")
    return Sources(names=tuple(names), files=tuple(files), notes=tuple(notes))


def _find(name: str) -> Sources:
    path = Path(name)
    if path.is_dir():
        return _folder(path, name=name)
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise DataError(f"{path}: unknown kind of file; use {KNOWN}, or a folder of them")
        return Sources(names=(name,), files=(_file(path, kind, document_id=path.name),))
    match = _HUB_URL.fullmatch(name) or (None if _kind(path) else _HUB_ID.fullmatch(name))
    if match is None:
        raise DataError(
            f"{name}: no such file or folder (nor a data set of the Hugging Face hub, whose ids are OWNER/NAME or "
            "hf://datasets/OWNER/NAME/FOLDER)"
        )
    download = download_dataset(match["repo"], revision=match["revision"], inside=match["inside"] or None)
    found = _folder(download.folder, name=download.name, only=download.files)
    return Sources(names=(download.name,), files=found.files, notes=found.notes)


def _folder(folder: Path, *, name: str, only: Sequence[str] | None = None) -> Sources:
    if (folder / CORPUS).is_file():
        raise DataError(f"{name}: a corpus already; name what it was made from (calibadv corpus info tells)")
    folder = _snapshot(folder)
    inside = sorted(_walk(folder)) if only is None else [folder / file for file in only]
    by_kind: dict[SourceKind, list[Path]] = {"jsonl": [], "parquet": [], "text": []}
    others = 0
    for path in inside:
        kind = _kind(path)
        if kind is None:
            others += 1
        else:
            by_kind[kind].append(path)
    tables, texts = [*by_kind["jsonl"], *by_kind["parquet"]], by_kind["text"]
    if not tables and not texts:
        raise DataError(f"{name}: no {KNOWN} files there (hidden ones are skipped)")
    notes = []
    if tables:
        check_one_set([path.relative_to(folder).as_posix() for path in tables], name=name)
        others += len(texts)
    if others:
        notes.append(f"{name}: files of other kinds skipped: {others:,}")
    files = [
        _file(path, kind, document_id=path.relative_to(folder).as_posix())
        for path in tables or texts
        if (kind := _kind(path)) is not None
    ]
    return Sources(names=(name,), files=tuple(files), notes=tuple(notes))


def _walk(folder: Path) -> Iterator[Path]:
    """Files at any depth, without hidden files and folders; behind links, too, but no folder twice."""
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        places = {name: os.path.realpath(Path(parent, name)) for name in sorted(folders) if name[0] != "."}
        folders[:] = [name for name, place in places.items() if place not in seen]
        seen.update(places.values())
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror}); fix that or name other folders")


def _snapshot(folder: Path) -> Path:
    """The newest revision in a folder of the hub's cache (``snapshots/``, ``refs/``); any other folder is itself."""
    snapshots = folder / "snapshots"
    if not (snapshots.is_dir() and (folder / "refs").is_dir()):
        return folder
    main = folder / "refs" / "main"
    if main.is_file() and (snapshots / main.read_text(encoding="utf-8").strip()).is_dir():
        return snapshots / main.read_text(encoding="utf-8").strip()
    revisions = sorted(snapshots.iterdir())
    if len(revisions) != 1:
        raise DataError(f"{folder}: which of the {len(revisions)} revisions? Name one of the folders in {snapshots}")
    return revisions[0]


def _file(path: Path, kind: SourceKind, *, document_id: str) -> SourceFile:
    if not path.is_file():
        raise DataError(f"{path}: not a file that can be read (a broken link, or a device); remove it")
    return SourceFile(path=path, kind=kind, size=path.stat().st_size, document_id=document_id)


def _kind(path: Path) -> SourceKind | None:
    name = path.name.lower()
    return next((kind for ending, kind in _ENDINGS if name.endswith(ending)), None)
