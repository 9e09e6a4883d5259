"""The file of encoded documents: a FAISS file of plain vectors, so that it is an exact index as it stands.

``vectors.faiss`` is what FAISS writes for ``IndexFlatIP`` (float32) or for a 16-bit scalar quantiser (float16): a
short header, then the rows. It is written row by row, read by memory mapping, and never held in memory; an exact index
needs no second copy. Published ``IndexFlatIP`` files are read in the same way.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import DataError, first_line
from calibadv.io.packages import require_packages

VectorType = Literal["float32", "float16"]
_NUM_VECTORS_AT = 8
"""Where a FAISS file counts its vectors: after the four letters of its type and the dimension."""
_LENGTH_BYTES = 8
"""The length of the last field, the rows, stands right before them."""
_PLACE = re.compile(r"\.(?:cpp|h|cu):\d+: ")
"""The place in FAISS's sources in front of what it says."""


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A complete file of vectors."""

    path: Path
    dtype: VectorType
    num_vectors: int
    dimension: int
    offset: int
    """Where the rows start, in bytes."""

    @classmethod
    def open(cls, path: Path) -> VectorFile:
        """Let FAISS read the header; DataError when the file holds no plain vectors, or is shorter than it says."""
        index = read_index(path)
        found = cls.of(index, path=path)
        if found is None:
            raise DataError(f"{path}: a {type(index).__name__}, not plain inner-product vectors")
        return found

    @classmethod
    def of(cls, index: Any, *, path: Path) -> VectorFile | None:
        """The rows behind an index that FAISS read from ``path``; None when it does not hold plain vectors."""
        faiss = import_faiss()
        is_half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        if index.metric_type != faiss.METRIC_INNER_PRODUCT or not (is_half or isinstance(index, faiss.IndexFlat)):
            return None
        dtype: VectorType = "float16" if is_half else "float32"
        found = cls(path, dtype, index.ntotal, index.d, offset=len(empty_index(dtype, dimension=index.d)))
        if (size := path.stat().st_size) != (expected := found.offset + found.num_vectors * found.row_bytes):
            raise DataError(f"{path}: {size:,} bytes, but its vectors take {expected:,}; fetch or build it again")
        return found

    @property
    def row_bytes(self) -> int:
        return self.dimension * np.dtype(self.dtype).itemsize

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start to stop as float32, read (not mapped): a pass over the file leaves nothing in memory."""
        count = (min(stop, self.num_vectors) - start) * self.dimension
        rows = np.fromfile(self.path, dtype=self.dtype, count=count, offset=self.offset + start * self.row_bytes)
        if len(rows) != count:
            raise DataError(f"{self.path}: ends within the vectors; fetch or build the file again")
        return rows.reshape(-1, self.dimension).astype(np.float32, copy=False)

    def map(self) -> NDArray[Any]:
        """The rows, memory-mapped: [num_vectors, dimension] of the stored type."""
        shape = (self.num_vectors, self.dimension)
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=shape)


class VectorWriter:
    """Writes vectors in order; what `flush` has returned for is on disk."""

    def __init__(self, path: Path, *, dtype: VectorType, dimension: int, start: int = 0) -> None:
        self.path, self.dtype, self.dimension = path, dtype, dimension
        self._header = empty_index(dtype, dimension=dimension)
        self._row_bytes = dimension * np.dtype(dtype).itemsize
        self.num_vectors = start
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        end = len(self._header) + start * self._row_bytes
        if start and self._file.seek(0, os.SEEK_END) < end:
            raise DataError(
                f"{path}: shorter than the {start:,} vectors that were written; remove the folder, start again"
            )
        self._file.truncate(end)
        self._file.seek(0)
        self._file.write(self._header)
        self._file.seek(end)

    def write(self, vectors: NDArray[np.float32]) -> None:
        """Append rows; values that the type cannot hold are errors."""
        with np.errstate(over="ignore"):
            rows = vectors.astype(self.dtype)
        if not np.isfinite(rows).all():
            raise DataError(
                f"{self.path}: the encoder gave values that are not finite, or too large for {self.dtype}, for a "
                f"document in rows {self.num_vectors} to {self.num_vectors + len(rows) - 1}"
            )
        self._file.write(rows.tobytes())
        self.num_vectors += len(rows)

    def flush(self) -> None:
        """Make what was written durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Put the number of vectors into the header: from now on it is a complete FAISS file."""
        rows_length = self.num_vectors * (self.dimension if self.dtype == "float32" else self._row_bytes)
        self._file.seek(0)
        self._file.write(patched(self._header, num_vectors=self.num_vectors, last_length=rows_length))
        self.flush()
        self.close()

    def close(self) -> None:
        self._file.close()


def empty_index(dtype: VectorType, *, dimension: int) -> bytes:
    """What FAISS writes for an exact index without vectors; it ends with the length of its rows, 0."""
    faiss = import_faiss()
    if dtype == "float32":
        index = faiss.IndexFlatIP(dimension)
    else:
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    return serialized(index)


def serialized(index: Any) -> bytes:
    """The bytes that FAISS would write to a file."""
    return bytes(import_faiss().serialize_index(index))


def patched(header: bytes, *, num_vectors: int, last_length: int) -> bytes:
    """The header of an index whose last field, rows or codes, has ``last_length`` elements that follow."""
    changed = bytearray(header)
    struct.pack_into("<q", changed, _NUM_VECTORS_AT, num_vectors)
    struct.pack_into("<Q", changed, len(changed) - _LENGTH_BYTES, last_length)
    return bytes(changed)


def read_index(path: Path) -> Any:
    """A FAISS index, memory-mapped."""
    faiss = import_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        reason = _PLACE.split(first_line(error))[-1]
        raise DataError(
            f"{path}: FAISS cannot read it: not a FAISS index, or not a whole one ({reason}); fetch or build it again"
        ) from error


def import_faiss() -> Any:
    """FAISS, or what to install."""
    require_packages("faiss", extra="dense", what="dense retrieval")
    import faiss

    return faiss
