"""Kinds of FAISS index and their parameters, chosen by the size of the corpus.

=========  ==========================================================  ===================================
kind       what is stored of a document                                search
=========  ==========================================================  ===================================
flat       the vector, 4 bytes a dimension                             exact, reads every vector
fp16       the vector, 2 bytes a dimension                             exact up to the rounding
sq8        1 byte a dimension                                          reads every code
hnsw       the vector, 2 bytes a dimension, and links to neighbours    walks a graph: fast, slow to build
ivf-sq8    1 byte a dimension, in lists of neighbours                  reads the nearest lists
ivf-pq     1 byte for 4 dimensions, in lists of neighbours             reads the nearest lists
=========  ==========================================================  ===================================

Kinds that store less than 2 bytes a dimension are re-scored: the best candidates are compared once more by the vectors
themselves, which stay on disk and are memory-mapped.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from calibadv.errors import ConfigError, DataError

Kind = Literal["flat", "fp16", "sq8", "hnsw", "ivf-sq8", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LEAST = {"ivf-sq8": 256, "ivf-pq": 1024}
"""Fewer documents than that cannot train the lists or the codes, and need neither."""
_TRAIN_PER_LIST = 64
_MAX_TRAIN = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexParameters:
    """One kind of index with everything chosen; recorded in the manifest."""

    kind: Kind
    num_vectors: int
    dimension: int
    rescore: int = 0
    """Candidates that are compared by their vectors, per hit wanted; 0: none."""
    nlist: int = 0
    """Lists of an inverted file."""
    nprobe: int = 0
    """Lists that a search reads."""
    pq_bytes: int = 0
    """Bytes a document of a product quantiser."""
    links: int = 0
    """Neighbours of a document in the graph (twice as many on its lowest level)."""
    ef_construction: int = 0
    ef_search: int = 0

    def as_parameters(self) -> dict[str, Any]:
        """What is not 0, as plain values."""
        return {name: value for name, value in asdict(self).items() if value != 0}

    @property
    def num_bytes(self) -> int:
        """Size of the index in memory when all of it has been touched; what it maps besides does not count."""
        size, dimension = self.num_vectors, self.dimension
        centroids = self.nlist * dimension * 4
        per_vector = {
            "flat": 4 * dimension,
            "fp16": 2 * dimension,
            "sq8": dimension,
            "hnsw": 2 * dimension + 4 * (2 * self.links + self.links / max(self.links - 1, 1)) + 12,
            "ivf-sq8": dimension + 8,
            "ivf-pq": self.pq_bytes + 8,
        }[self.kind]
        codebook = 256 * dimension * 4 if self.kind == "ivf-pq" else 0
        return round(size * per_vector) + centroids + codebook

    @property
    def train_size(self) -> int:
        """Vectors that the lists and codes are learned from."""
        if self.kind == "sq8":
            return min(self.num_vectors, 100_000)
        wanted = max(_TRAIN_PER_LIST * self.nlist, 20_000 if self.kind == "ivf-pq" else 0)
        return min(self.num_vectors, wanted, _MAX_TRAIN)


def check_kind(kind: str, *, num_vectors: int) -> None:
    """Refuse an unknown kind, and one that a small corpus cannot train."""
    if kind not in KINDS:
        raise ConfigError(f"the kind of an index must be one of {', '.join(KINDS)}, got {kind!r}")
    least = _LEAST.get(kind, 1)
    if num_vectors < least:
        raise ConfigError(f"an index of kind {kind} needs at least {least:,} documents, got {num_vectors:,}; use flat")


def parameters_for(kind: Kind, *, num_vectors: int, dimension: int) -> IndexParameters:
    """Parameters for a recall@20 of about 0.95 or more (docs/benchmarks.md has the table)."""
    check_kind(kind, num_vectors=num_vectors)
    sizes: dict[str, Any] = {"kind": kind, "num_vectors": num_vectors, "dimension": dimension}
    if kind == "sq8":
        sizes |= {"rescore": 4}
    elif kind == "hnsw":
        sizes |= {"links": 32, "ef_construction": 80, "ef_search": 128}
    elif kind in ("ivf-sq8", "ivf-pq"):
        nlist = _num_lists(num_vectors)
        sizes |= {"nlist": nlist, "nprobe": num_probes(nlist), "rescore": 4}
        if kind == "ivf-pq":
            sizes |= {"pq_bytes": _pq_bytes(dimension), "rescore": 8}
    return IndexParameters(**sizes)


def parameters_from(record: Any, *, num_vectors: int, where: str) -> IndexParameters:
    """The parameters that a manifest recorded."""
    try:
        values = {name: value for name, value in record.items() if name not in ("file", "bytes")}
        parameters = IndexParameters(**values)
    except (AttributeError, TypeError) as error:
        raise DataError(f"{where}: the manifest does not describe its index ({error}); build it again") from error
    if parameters.kind not in KINDS or parameters.num_vectors != num_vectors:
        raise DataError(
            f"{where}: kind {parameters.kind!r} over {parameters.num_vectors} vectors; build the index again"
        )
    return parameters


def _num_lists(num_vectors: int) -> int:
    """About 4 sqrt(n), a power of two, with 64 documents a list or more."""
    wanted = 4 * math.sqrt(num_vectors) if num_vectors >= 100_000 else 2 * math.sqrt(num_vectors)
    return 1 << int(math.log2(max(1.0, min(wanted, num_vectors / _TRAIN_PER_LIST))))


def num_probes(nlist: int) -> int:
    """4 sqrt(nlist): a quarter of 256 lists, 3 % of 16,384; measured on real passages."""
    return min(nlist, round(4 * math.sqrt(nlist)))


def _pq_bytes(dimension: int) -> int:
    """A quarter of the dimension, or the next smaller divisor."""
    return max(size for size in range(1, max(1, dimension // 4) + 1) if dimension % size == 0)
