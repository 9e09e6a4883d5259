"""What every index folder has besides its manifest: a corpus somewhere, files that must be whole, and a way to appear.

An index appears all at once: it is built in a folder beside its own, which is then renamed. ``files.json`` keeps size
and digest of its files, so that a cut-off copy is noticed when it is opened (sizes) or verified (digests).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import new_folder, read_json, write_json
from calibadv.io.provenance import file_sha256
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.manifest import CORPUS
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.index.manifest import IndexManifest

FILES = "files.json"
_CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def corpus_place(corpus: Corpus, index_dir: Path) -> str:
    """`IndexManifest.corpus`: where the corpus is, seen from the index folder; empty for a corpus in memory."""
    return "" if corpus.path is None else Path(os.path.relpath(corpus.path, index_dir)).as_posix()


def corpus_of(index_dir: Path, manifest: IndexManifest, *, corpus: Corpus | None = None) -> Corpus:
    """The corpus that was indexed: the one given, or the one at the manifest's place. Another one is an error."""
    if corpus is None:
        corpus = read_corpus(find_corpus(index_dir, manifest))
    manifest.check_corpus(sha256=corpus.sha256, num_documents=len(corpus), where=str(index_dir))
    return corpus


def find_corpus(index_dir: Path, manifest: IndexManifest) -> Path:
    """Where the corpus is, according to the manifest; an error when there is none."""
    if not manifest.corpus:
        raise ConfigError(f"{index_dir}: its manifest does not say where the corpus is; name it (--corpus)")
    place = Path(os.path.normpath(index_dir / manifest.corpus))
    if not place.is_file() and not (place / CORPUS).is_file():
        raise DataError(f"{index_dir}: its corpus is not at {place} any more; name its new place (--corpus)")
    return place


def check_new_folder(index_dir: Path) -> None:
    """Refuse to build where something is already."""
    if index_dir.exists() and (not index_dir.is_dir() or any(index_dir.iterdir())):
        raise ConfigError(f"the index folder {index_dir} exists and is not empty; name a new folder, or remove it")


@contextmanager
def whole_folder(index_dir: Path) -> Iterator[Path]:
    """A folder to build in that becomes ``index_dir`` at the end, and is removed when the build fails."""
    check_new_folder(index_dir)
    with new_folder(index_dir) as partial:
        yield partial


@dataclass(frozen=True, slots=True)
class FileList:
    """Size and SHA-256 of every file of an index, by its name relative to the folder."""

    files: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> FileList:
        """Read the files now."""
        return cls(
            {name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)} for name in names}
        )

    @classmethod
    def read(cls, folder: Path, *, elsewhere: Collection[str] = ()) -> FileList:
        """The list that `write` left in ``folder``; only files named in ``elsewhere`` may lie outside."""
        path = folder / FILES
        try:
            files = read_json(path)
            known = all(type(entry["bytes"]) is int and type(entry["sha256"]) is str for entry in files.values())
        except (DataError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not a list of files ({error}); build the index again") from error
        outside = (name for name in files if Path(name).is_absolute() or ".." in Path(name).parts)
        if not known or any(name not in elsewhere for name in outside):
            raise DataError(f"{path}: not a list of files; build the index again")
        return cls(files)

    def write(self, folder: Path) -> None:
        """Leave the list in ``folder``."""
        write_json(folder / FILES, dict(sorted(self.files.items())))

    @property
    def num_bytes(self) -> int:
        """The size of all files together."""
        return sum(entry["bytes"] for entry in self.files.values())

    def check_sizes(self, folder: Path) -> None:
        """DataError for a file that is missing, cut off or too long; costs nothing."""
        for name, entry in self.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != entry["bytes"]:
                found = "is missing" if size is None else f"has {size:,} bytes instead of {entry['bytes']:,}"
                raise DataError(f"{folder}: the index is broken: {name} {found}; copy it again or build it again")

    def check_readable(self, folder: Path) -> None:
        """DataError for a file that this user may not read."""
        for name in self.files:
            if not os.access(folder / name, os.R_OK):
                raise DataError(f"{folder}: {name} may not be read by this user; ask its owner: chmod -R a+rX {folder}")

    def check_digests(self, folder: Path, *, progress: Progress | None = None) -> None:
        """DataError for a file that has changed; reads every byte."""
        self.check_sizes(folder)
        done = 0

        def read(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, self.num_bytes)

        for name, entry in self.files.items():
            if file_sha256(folder / name, read=read) != entry["sha256"]:
                raise DataError(f"{folder}: the index is broken: {name} has changed; copy it again or build it again")
