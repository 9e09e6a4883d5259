"""From id to row without the ids in memory: their hashes, sorted, beside the rows they stand in.

``ids.bin`` holds n hashes (64 bits, little endian, ascending) and then n rows (32 bits). Hashes are spread evenly, so a
hash tells about where it stands, and a lookup touches two or three pages. The caller compares the id stored in the
row it gets: the hash only says where to look. A corpus whose ids are its row numbers needs no index at all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import DataError
from calibadv.io.mapped_file import MappedFile

IDS = "ids.bin"
MAX_DOCUMENTS = 2**32
HASH, ROW = np.dtype("<u8"), np.dtype("<u4")
BYTES_PER_DOCUMENT = HASH.itemsize + ROW.itemsize


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of BLAKE2b each; the same on every machine."""
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids), HASH)


def row_number(document_id: str, *, num_documents: int) -> int | None:
    """The row that an id names when ids are row numbers.

    >>> row_number("7", num_documents=8), row_number("07", num_documents=8), row_number("8", num_documents=8)
    (7, None, None)
    """
    if len(document_id) > 10 or not (document_id.isascii() and document_id.isdigit()):
        return None
    row = int(document_id)
    return row if row < num_documents and str(row) == document_id else None


class IdIndex:
    """Rows by the hash of an id."""

    def __init__(
        self, hashes: NDArray[np.uint64], rows: NDArray[np.uint32], *, source: MappedFile | None = None
    ) -> None:
        self._hashes = hashes
        self._rows = rows
        self._file = source

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdIndex:
        """An index in memory of ids in row order."""
        hashes = hash_ids(ids)
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order.astype(ROW))

    @classmethod
    def open(cls, path: Path, *, num_documents: int) -> IdIndex:
        """Map an index file."""
        source = MappedFile(path)
        if len(source) != num_documents * BYTES_PER_DOCUMENT:
            raise DataError(
                f"{path}: damaged ({len(source):,} bytes for {num_documents:,} documents); "
                "import the corpus again or fetch another copy"
            )
        hashes = np.frombuffer(source.map, HASH, count=num_documents)
        rows = np.frombuffer(source.map, ROW, count=num_documents, offset=num_documents * HASH.itemsize)
        return cls(hashes, rows, source=source)

    def __len__(self) -> int:
        return len(self._hashes)

    def candidates(self, document_id: str) -> list[int]:
        """Rows whose id may be this one: nearly always none or one."""
        try:
            wanted = hash_ids([document_id])[0]
        except UnicodeEncodeError:  # half a surrogate pair: no stored id has one
            return []
        start = self._position(wanted)
        stop = start
        while stop < len(self._hashes) and self._hashes[stop] == wanted:
            stop += 1
        if self._file is not None:
            self._file.touched(reads=3)
        return [int(row) for row in self._rows[start:stop]]

    def _position(self, wanted: np.uint64) -> int:
        """Where the hash stands, or would stand: looked for around its expected place first."""
        size = len(self._hashes)
        guess = int(wanted) * size >> 64
        reach = 4 * math.isqrt(size) + 8  # eight standard deviations
        low, high = max(0, guess - reach), min(size, guess + reach)
        if (low == 0 or self._hashes[low - 1] < wanted) and (high == size or wanted < self._hashes[high]):
            return low + int(np.searchsorted(self._hashes[low:high], wanted))
        return int(np.searchsorted(self._hashes, wanted))

    def first_miss(self, ids: Sequence[str], *, first_row: int) -> int | None:
        """Of consecutive rows with these ids, the first that the index does not lead to."""
        places = np.searchsorted(self._hashes, hash_ids(ids))
        found = self._rows[np.minimum(places, len(self) - 1)]
        if self._file is not None:
            self._file.touched(reads=3 * len(ids))
        for number in np.flatnonzero(found != np.arange(first_row, first_row + len(ids))):
            row = first_row + int(number)
            if row not in self.candidates(ids[int(number)]):  # else one of several with the same hash
                return row
        return None
