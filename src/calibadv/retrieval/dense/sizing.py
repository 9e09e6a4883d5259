"""Which kind of index fits into a given memory, and what recall to expect of it.

The sizes are exact up to a few kilobytes (`IndexParameters.num_bytes`). The recall figures are the least that was
measured with the parameters of `parameters_for`, on clustered synthetic vectors and on MiniLM vectors of Wikipedia
passages (docs/benchmarks.md, "Dense indexes"); other vectors give other figures: ``calibadv index recall``.
"""

from __future__ import annotations

from dataclasses import dataclass

from calibadv.errors import ConfigError
from calibadv.retrieval.dense.kinds import KINDS, Kind, parameters_for

RECALL: dict[Kind, float] = {"flat": 1.0, "fp16": 1.0, "sq8": 0.99, "hnsw": 0.98, "ivf-sq8": 0.95, "ivf-pq": 0.95}
"""Recall@20 of exact search, measured; kinds that are re-scored, with re-scoring."""
BRUTE_FORCE = 1_000_000
"""Up to so many documents, reading every vector is fast enough that an exact search is worth more than a fast one."""

_SMALL: tuple[Kind, ...] = ("flat", "fp16", "sq8", "ivf-sq8", "ivf-pq")
_LARGE: tuple[Kind, ...] = ("hnsw", "ivf-sq8", "ivf-pq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A kind of index, its size and what to expect."""

    kind: Kind
    bytes: int
    """Memory of the index when all of it has been touched, without the vectors that stay on disk."""
    disk_bytes: int
    """Vectors kept on disk besides (float16), for re-scoring and to make another kind."""
    expected_recall: float
    """Recall@20 of exact search."""
    why: str
    """The choice in one sentence."""


def plan_kind(num_documents: int, *, dimension: int, memory_bytes: int) -> Plan:
    """The best kind that fits; ConfigError with the smallest possible figure when none does.

    >>> plan = plan_kind(21_015_324, dimension=768, memory_bytes=parse_size("8GiB"))
    >>> plan.kind, plan.bytes >> 20
    ('ivf-pq', 4057)
    """
    if num_documents < 1 or dimension < 1:
        raise ConfigError(f"a plan needs documents and a dimension >= 1, got {num_documents} and {dimension}")
    sizes = {kind: _num_bytes(kind, num_documents, dimension) for kind in KINDS}
    order = _SMALL if num_documents <= BRUTE_FORCE else _LARGE
    fits = [kind for kind in order if (size := sizes[kind]) is not None and size <= memory_bytes]
    if not fits:
        least = min(size for size in sizes.values() if size is not None)
        raise ConfigError(
            f"--memory {format_size(memory_bytes)}: no kind of index over {num_documents:,} vectors of dimension "
            f"{dimension} fits; the smallest takes {format_size(least)}. Allow that much, or use an encoder of a "
            "smaller dimension, fewer documents, or BM25"
        )
    kind, size = fits[0], sizes[fits[0]]
    assert size is not None
    return Plan(
        kind=kind,
        bytes=size,
        disk_bytes=num_documents * dimension * (4 if kind == "flat" else 2),
        expected_recall=RECALL[kind],
        why=_why(kind, size, order=order, sizes=sizes, memory_bytes=memory_bytes),
    )


def parse_size(text: str) -> int:
    """Bytes of ``8GiB``, ``500 MB`` or a plain number.

    >>> parse_size("8GiB"), parse_size("1.5 GB"), parse_size("4096")
    (8589934592, 1500000000, 4096)
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = TypeAdapter(ByteSize).validate_python(text.strip().lower().removesuffix("b") + "b")
    except ValidationError:
        size = None
    if not size:
        raise ConfigError(f"--memory {text!r}: expected a size such as 8GiB, 500MB or a number of bytes")
    return int(size)


def format_size(num_bytes: int) -> str:
    """
    >>> format_size(8 << 30), format_size(1_500_000), format_size(12)
    ('8.0 GiB', '1.4 MiB', '12 B')
    """
    from pydantic import ByteSize

    return ByteSize(num_bytes).human_readable(separator=" ")


def _num_bytes(kind: Kind, num_documents: int, dimension: int) -> int | None:
    try:
        return parameters_for(kind, num_vectors=num_documents, dimension=dimension).num_bytes
    except ConfigError:  # too few documents for it
        return None


def _why(kind: Kind, size: int, *, order: tuple[Kind, ...], sizes: dict[Kind, int | None], memory_bytes: int) -> str:
    passed = [k for k in order[: order.index(kind)] if sizes[k] is not None]
    over = ", ".join(f"{k} would take {format_size(sizes[k] or 0)}" for k in passed)
    text = f"{kind} takes {format_size(size)} of {format_size(memory_bytes)}"
    text += f" ({over})" if over else ", and nothing better is needed"
    text += f"; expected recall@20 of exact search: {RECALL[kind]:.2f}"
    if kind in ("ivf-pq", "ivf-sq8", "sq8"):
        text += " with re-scoring from the vectors on disk"
    return text + ". The encoder and Python take about 1 GiB besides"
