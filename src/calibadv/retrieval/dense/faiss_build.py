"""Make a FAISS index from a file of vectors without holding the vectors in memory.

Codes are computed chunk by chunk. Of kinds that read every code only the header is made by FAISS, and the codes are
appended to the file. Inverted lists are made in parts that fit into memory, then merged list by list into one file.
Only a graph (hnsw) has to be in memory as a whole while it is built.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibadv.io.files import new_file
from calibadv.retrieval.dense.kinds import IndexParameters
from calibadv.retrieval.dense.vector_file import import_faiss, patched, serialized

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 20
"""Float32 vectors in memory at a time."""
PART_BYTES = 1 << 30
"""Codes of inverted lists in memory at a time."""


class VectorSource(Protocol):
    """Rows of float32 vectors."""

    @property
    def num_vectors(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    def read(self, start: int, stop: int) -> NDArray[np.float32]: ...


def assemble(source: VectorSource, *, parameters: IndexParameters, path: Path, part_bytes: int = PART_BYTES) -> None:
    """Write the index of ``source`` to ``path``, all or nothing."""
    index = _trained(source, parameters)
    with new_file(path, sync=True) as partial:
        if parameters.kind == "hnsw":
            for chunk in _chunks(source):
                index.add(chunk)
            import_faiss().write_index(index, str(partial))
        elif parameters.nlist:
            _write_lists(source, index, partial, part_bytes=part_bytes)
        else:
            _write_codes(source, index, partial)


def empty(parameters: IndexParameters) -> Any:
    """The FAISS index of these parameters, untrained and without vectors."""
    faiss = import_faiss()
    dimension, inner_product = parameters.dimension, faiss.METRIC_INNER_PRODUCT
    scalar = faiss.ScalarQuantizer
    if parameters.kind == "flat":
        return faiss.IndexFlatIP(dimension)
    if parameters.kind == "fp16":
        return faiss.IndexScalarQuantizer(dimension, scalar.QT_fp16, inner_product)
    if parameters.kind == "sq8":
        return faiss.IndexScalarQuantizer(dimension, scalar.QT_8bit, inner_product)
    if parameters.kind == "hnsw":
        index = faiss.IndexHNSWSQ(dimension, scalar.QT_fp16, parameters.links, inner_product)
        index.hnsw.efConstruction, index.hnsw.efSearch = parameters.ef_construction, parameters.ef_search
        return index
    # np: codes in no particular order; ordering them (polysemous) takes most of the training and is of no use here.
    code = "SQ8" if parameters.kind == "ivf-sq8" else f"PQ{parameters.pq_bytes}x8np"
    index = faiss.index_factory(dimension, f"IVF{parameters.nlist},{code}", inner_product)
    index.nprobe = parameters.nprobe
    index.cp.min_points_per_centroid = 1  # sizes are chosen in `kinds`; no warnings on the terminal
    if parameters.kind == "ivf-pq":
        # A quarter of the usual points, half of the rounds: the codebooks hardly change, training takes minutes less.
        index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid, index.pq.cp.niter = 1, 64, 12
    return index


def _trained(source: VectorSource, parameters: IndexParameters) -> Any:
    index = empty(parameters)
    if not index.is_trained:
        logger.info("Training %s on %d vectors", parameters.kind, parameters.train_size)
        index.train(_sample(source, parameters.train_size))
    return index


def _sample(source: VectorSource, size: int) -> NDArray[np.float32]:
    """About ``size`` rows in short runs spread evenly over the file; neighbours are often of one article."""
    run = 16
    num_runs = max(1, size // run)
    if size >= source.num_vectors or num_runs * run >= source.num_vectors:
        return source.read(0, source.num_vectors)
    starts = np.linspace(0, source.num_vectors - run, num_runs).astype(int)
    return np.concatenate([source.read(int(start), int(start) + run) for start in starts])


def _chunks(source: VectorSource, start: int = 0, stop: int | None = None) -> Iterator[NDArray[np.float32]]:
    rows = max(1, CHUNK_BYTES // (4 * source.dimension))
    stop = source.num_vectors if stop is None else stop
    for begin in range(start, stop, rows):
        yield np.ascontiguousarray(source.read(begin, min(begin + rows, stop)), dtype=np.float32)


def _write_codes(source: VectorSource, index: Any, path: Path) -> None:
    """Header by FAISS, then the codes: the layout of its flat and scalar-quantised files."""
    faiss = import_faiss()
    is_flat = isinstance(faiss.downcast_index(index), faiss.IndexFlat)
    length = source.num_vectors * (source.dimension if is_flat else index.sa_code_size())
    with path.open("wb") as file:
        file.write(patched(serialized(index), num_vectors=source.num_vectors, last_length=length))
        for chunk in _chunks(source):
            file.write(index.sa_encode(chunk).tobytes())


def _write_lists(source: VectorSource, index: Any, path: Path, *, part_bytes: int) -> None:
    """Fill inverted lists part by part; several parts are merged."""
    faiss = import_faiss()
    rows = max(1, part_bytes // (index.code_size + 8))
    if rows >= source.num_vectors:
        for chunk in _chunks(source):
            index.add(chunk)
        faiss.write_index(index, str(path))
        return
    header = serialized(index)
    paths = []
    try:
        for number, start in enumerate(range(0, source.num_vectors, rows)):
            part = faiss.deserialize_index(np.frombuffer(header, dtype=np.uint8))
            row = start
            for chunk in _chunks(source, start, min(start + rows, source.num_vectors)):
                part.add_with_ids(chunk, np.arange(row, row + len(chunk), dtype=np.int64))
                row += len(chunk)
            paths.append(path.with_name(f"{path.name}.{number}"))
            faiss.write_index(part, str(paths[-1]))
        _merge(header, paths, path, num_vectors=source.num_vectors)
    finally:
        for part_path in paths:
            part_path.unlink(missing_ok=True)


def _merge(header: bytes, paths: list[Path], path: Path, *, num_vectors: int) -> None:
    """One file with the lists of all parts, written list by list from mapped parts.

    An index without vectors ends with its lists: ``ilar``, their number, the size of a code, the kind of table, the
    table. The table of sizes is written again; codes and ids follow, list after list.
    """
    faiss = import_faiss()
    parts = [faiss.read_index(str(part), faiss.IO_FLAG_MMAP_IFC) for part in paths]  # own the mapped lists
    lists = [faiss.extract_index_ivf(part) for part in parts]
    nlist, code_size = lists[0].nlist, lists[0].code_size
    sizes = np.array([[ivf.invlists.list_size(number) for number in range(nlist)] for ivf in lists])  # [parts, nlist]
    cut = header.rindex(b"ilar")
    with path.open("wb") as file:
        start = bytearray(header[:cut])
        struct.pack_into("<q", start, 8, num_vectors)
        file.write(start + b"ilar" + struct.pack("<QQ", nlist, code_size) + b"full" + struct.pack("<Q", nlist))
        file.write(sizes.sum(axis=0).astype("<u8").tobytes())
        for number in range(nlist):
            filled = [ivf.invlists for ivf, size in zip(lists, sizes[:, number], strict=True) if size]
            for invlists in filled:
                size = invlists.list_size(number) * code_size
                file.write(faiss.rev_swig_ptr(invlists.get_codes(number), size).tobytes())
            for invlists in filled:
                file.write(faiss.rev_swig_ptr(invlists.get_ids(number), invlists.list_size(number)).tobytes())
