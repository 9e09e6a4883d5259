"""Id hashes beside their rows, sorted, in bounded memory: what duplicates are found with, and what ids.bin is made of.

Hashes are kept in sorted runs that are merged while they are small and written to disk when they are not, so 21 million
ids take no more memory than two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import DataError
from calibadv.retrieval.corpus.id_index import HASH, MAX_DOCUMENTS, ROW

Hashes = NDArray[np.uint64]
Rows = NDArray[np.uint32]

MAX_IN_MEMORY = 1 << 21
"""Hashes in the longest run that is merged in memory (24 MiB)."""


class HashRuns:
    """Hash to rows, for writing once."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._name = name
        self._runs: list[tuple[Hashes, Rows]] = []
        self._files: list[Path] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, hashes: Hashes, first_row: int) -> None:
        """Hashes of consecutive rows."""
        self.add_rows(hashes, np.arange(first_row, first_row + len(hashes)))

    def add_rows(self, hashes: Hashes, rows: NDArray[np.int64]) -> None:
        """Hashes and their rows."""
        if not len(hashes):
            return
        if rows[-1] >= MAX_DOCUMENTS:
            raise DataError(f"a corpus holds at most {MAX_DOCUMENTS:,} documents; make several of them")
        self._size += len(hashes)
        run = _sorted(hashes, rows.astype(ROW))
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]) < MAX_IN_MEMORY:
            hashes, rows_before = self._runs.pop()
            run = _sorted(np.concatenate([hashes, run[0]]), np.concatenate([rows_before, run[1]]))
        self._runs.append(self._spilled(run) if 2 * len(run[0]) >= MAX_IN_MEMORY else run)

    def find(self, hashes: Hashes) -> list[tuple[int, int]]:
        """(position in ``hashes``, row) of everything that was added with the same hash."""
        found = []
        for known, rows in self._runs:
            places = np.searchsorted(known, hashes)
            equal = known[np.minimum(places, len(known) - 1)] == hashes
            for position in np.flatnonzero(equal):
                place = places[position]
                while place < len(known) and known[place] == hashes[position]:
                    found.append((int(position), int(rows[place])))
                    place += 1
        return found

    def write(self, path: Path) -> None:
        """All hashes in order, then their rows: the form of `calibadv.retrieval.corpus.id_index`."""
        size, done = len(self), 0
        num_parts = -(-size * 2 // MAX_IN_MEMORY)
        bounds = [(part << 64) // num_parts for part in range(1, num_parts)]
        cuts = [[0, *np.searchsorted(known, np.array(bounds, HASH)), len(known)] for known, _ in self._runs]
        with path.open("wb") as file:
            for part in range(num_parts):
                spans = [slice(cut[part], cut[part + 1]) for cut in cuts]
                pairs = [(known[span], rows[span]) for (known, rows), span in zip(self._runs, spans, strict=True)]
                hashes, rows = _sorted(*map(np.concatenate, zip(*pairs, strict=True)))
                file.seek(done * HASH.itemsize)
                file.write(hashes.astype(HASH).tobytes())
                file.seek(size * HASH.itemsize + done * ROW.itemsize)
                file.write(rows.astype(ROW).tobytes())
                done += len(hashes)
        self.close()

    def close(self) -> None:
        """Remove what was kept on disk."""
        self._runs = []
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files = []

    def _spilled(self, run: tuple[Hashes, Rows]) -> tuple[Hashes, Rows]:
        mapped = []
        arrays: tuple[NDArray[Any], ...] = run
        for name, array in zip(("hashes", "rows"), arrays, strict=True):
            path = self._folder / f"{self._name}-{len(self._files)}-{name}.npy"
            np.save(path, array, allow_pickle=False)
            self._files.append(path)
            mapped.append(np.load(path, mmap_mode="r", allow_pickle=False))
        return mapped[0], mapped[1]


def _sorted(hashes: Hashes, rows: Rows) -> tuple[Hashes, Rows]:
    order = np.argsort(hashes, kind="stable")  # linear where two sorted runs follow each other
    return hashes[order], rows[order]
