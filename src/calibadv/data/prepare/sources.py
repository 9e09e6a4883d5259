"""Where question files come from: a local folder laid out like FlashRAG's, or the collection on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from calibadv.data.prepare.datasets import HUB_REPOSITORY, HUB_REVISION, candidates, suggestion
from calibadv.errors import ConfigError, DataError
from calibadv.io.hub import fetch_file, list_files

HUB = "hub"
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
WHOLE = "whole"
"""The split of a file that is named after its data set alone: it holds all there is, and counts as a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of questions."""

    path: Path
    split: str
    """The split it holds, which need not be the one asked for: "dev" may stand in for "test"."""


class Source(Protocol):
    """Gives files by data set and split."""

    def find(self, name: str, split: str) -> Found:
        """The file; DataError says what there is instead."""
        ...

    def has(self, name: str, split: str) -> bool: ...

    def identity(self) -> dict[str, Any]:
        """What to write down about where the data came from."""
        ...

    @property
    def is_published(self) -> bool:
        """Whether row counts must be those that were published."""
        ...


def open_source(source: str | Path, *, revision: str | None = None, endpoint: str | None = None) -> Source:
    """``"hub"``, or the path of a folder."""
    if str(source) == HUB:
        return HubSource(revision=revision or HUB_REVISION, endpoint=endpoint)
    if revision is not None:
        raise ConfigError(f"--revision {revision} is for --source hub; {source} is a local folder")
    return LocalSource(Path(source))


class LocalSource:
    """A folder with ``NAME/SPLIT.jsonl`` or ``NAME.SPLIT.jsonl``, also ``.jsonl.gz`` and ``.parquet``.

    ``NAME.jsonl`` alone is read when a test is asked for.
    """

    is_published = False

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f'--source {folder}: no such folder; name a folder of question files, or "hub"')
        self._folder = folder

    def find(self, name: str, split: str) -> Found:
        there = self._splits(name)
        if (wanted := self._best(there, split)) is not None:
            return Found(path=there[wanted], split=wanted)
        if there:
            raise DataError(f"{self._folder} has no {split} split of {name}; it has {', '.join(sorted(there))}")
        known = self._names()
        what = f"its data sets are {', '.join(known)}" if known else "it holds no question files at all"
        raise DataError(f"{self._folder} has no data set {name}{suggestion(name, known)}; {what}")

    def has(self, name: str, split: str) -> bool:
        return self._best(self._splits(name), split) is not None

    def identity(self) -> dict[str, Any]:
        return {"folder": str(self._folder.absolute())}

    def all_files(self, split: str) -> list[Path]:
        """Every file of a split: ``SPLIT.parquet``, as `prepare` writes it, else one file per data set that has it."""
        for ending in ENDINGS[::-1]:
            if (self._folder / f"{split}{ending}").is_file():
                return [self._folder / f"{split}{ending}"]
        files = [self.find(name, split).path for name in self._names() if self.has(name, split)]
        if not files:
            raise DataError(f"{self._folder}: no {split} questions in this folder (NAME/{split}.jsonl or the like)")
        return files

    def _best(self, there: Mapping[str, Path], split: str) -> str | None:
        """Of the splits that are there the best one to read for ``split``."""
        wanted = (*candidates(split), *((WHOLE,) if split != "train" else ()))
        return next((name for name in wanted if name in there), None)

    def _splits(self, name: str) -> dict[str, Path]:
        return {split: path for found, split, path in self._files() if found == name}

    def _names(self) -> list[str]:
        return sorted({name for name, _, _ in self._files()})

    def _files(self) -> list[tuple[str, str, Path]]:
        """(data set, split, path) of every file; of two that hold the same, the one in a folder of its own wins."""
        splits = ("train", "dev", "test", "validation")
        found: list[tuple[str, str, Path]] = []
        for path in sorted(p for p in self._folder.iterdir() if p.is_file()):
            ending = next((e for e in reversed(ENDINGS) if path.name.endswith(e)), None)
            if ending is None:
                continue
            stem = path.name.removesuffix(ending)
            head, _, tail = stem.rpartition(".")
            if head and tail in splits:
                found.append((head, tail, path))
            elif stem not in splits and "." not in stem and not stem.startswith(("corpus", "traces")):
                found.append((stem, WHOLE, path))
        for folder in sorted(p for p in self._folder.iterdir() if p.is_dir()):
            for split in splits:
                for ending in ENDINGS:
                    if (folder / f"{split}{ending}").is_file():
                        found.append((folder.name, split, folder / f"{split}{ending}"))
        return found


class HubSource:
    """The published collection, file by file (``NAME/SPLIT.jsonl``) at one commit.

    The hub's client keeps what it downloads. ``endpoint`` is the hub's address; not given, the client's own
    (``HF_ENDPOINT``).
    """

    is_published = True

    def __init__(
        self, *, repository: str = HUB_REPOSITORY, revision: str = HUB_REVISION, endpoint: str | None = None
    ) -> None:
        self._repository = repository
        self._revision = revision
        self._endpoint = endpoint
        self._listing: list[str] | None = None

    def find(self, name: str, split: str) -> Found:
        files = self._files()
        for wanted in candidates(split):
            if f"{name}/{wanted}.jsonl" in files:
                return Found(path=self._download(f"{name}/{wanted}.jsonl"), split=wanted)
        there = sorted(f.removeprefix(f"{name}/").removesuffix(".jsonl") for f in files if f.startswith(f"{name}/"))
        if there:
            raise DataError(f"{self._repository} has no {split} split of {name}; it has {', '.join(there)}")
        known = sorted({file.split("/")[0] for file in files if file.endswith(".jsonl") and "/" in file})
        raise DataError(
            f"{self._repository} has no data set {name}{suggestion(name, known)}; its data sets are {', '.join(known)}"
        )

    def has(self, name: str, split: str) -> bool:
        files = self._files()
        return any(f"{name}/{wanted}.jsonl" in files for wanted in candidates(split))

    def identity(self) -> dict[str, Any]:
        return {"repository": self._repository, "revision": self._revision}

    def _files(self) -> Sequence[str]:
        if self._listing is None:
            listed = list_files(self._repository, **self._which())
            self._listing = [file.name for file in listed.files]
        return self._listing

    def _download(self, file: str) -> Path:
        return fetch_file(self._repository, file, **self._which())

    def _which(self) -> dict[str, Any]:
        remedy = "a downloaded copy works too: --source FOLDER"
        return {"kind": "dataset", "revision": self._revision, "endpoint": self._endpoint, "remedy": remedy}
