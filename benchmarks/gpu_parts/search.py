"""Exact search of as many vectors as wiki-18 has (21 M x 768, float16), or as fit: queries a second by batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calibadv.retrieval.dense.gpu_search import TorchIndex
from calibadv.retrieval.dense.vector_file import VectorFile
from gpu_parts.setup import Setup

WIKI_18 = 21_015_324
DIMENSION = 768
CANDIDATES = 20
ROOM = 6 << 30
"""Bytes that are left to scores."""


class RandomVectors:
    """In the place of a file: one block of random rows, again and again, for what is read is not what is measured."""

    dimension = DIMENSION
    path = Path("random")

    def __init__(self, num_vectors: int) -> None:
        self.num_vectors = num_vectors
        rng = np.random.default_rng(0)
        self.block: NDArray[np.float32] = rng.standard_normal((1 << 16, DIMENSION), dtype=np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        rows = np.arange(start, min(stop, self.num_vectors)) % len(self.block)
        return self.block[rows]


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    fit = (setup.free() - ROOM) // (2 * DIMENSION)
    count = 10_000 if setup.tiny else int(min(WIKI_18, fit))
    vectors = RandomVectors(count)
    index = TorchIndex(cast(VectorFile, vectors), device=setup.device)
    for queries in (1, 8) if setup.tiny else (1, 8, 32, 128, 512):
        asked = np.random.default_rng(1).standard_normal((queries, DIMENSION), dtype=np.float32)
        seconds = setup.seconds(partial(index.search, asked, CANDIDATES))
        scores, rows = index.search(asked, CANDIDATES)
        best = (vectors.block.astype(np.float16).astype(np.float32) @ asked[0]).max()
        yield {
            "vectors": count,
            "queries": queries,
            "queries_per_s": queries / seconds,
            "milliseconds": seconds * 1e3,
            "right": bool(abs(scores[0, 0] - best) < 0.05 * abs(best) and (rows >= 0).all()),
            "peak": setup.peak(),
        }
