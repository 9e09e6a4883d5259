"""The nearest rows of query vectors: FAISS, then exact scores from the stored vectors where the kind wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calibadv.retrieval.dense.kinds import IndexParameters
from calibadv.retrieval.dense.vector_file import VectorFile, import_faiss

# Shape suffixes: Q = queries, C = candidates, D = dimension.

Vectors: TypeAlias = NDArray[np.float32]
Ranked: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows of one query, best first."""
_LEAST_RESCORED = 64
_TIE_MARGIN = 8
"""Rows beyond the last one wanted that are looked at, so that equal scores at the end can be put in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """An opened FAISS index, with the vectors that its hits are re-scored with."""

    faiss_index: Any
    parameters: IndexParameters
    vectors: VectorFile | None = None

    def best(self, vectors_QD: Vectors, k: int) -> list[Ranked]:
        """The best ``k`` rows of each query, equal scores in row order; fewer where an approximate kind finds fewer."""
        rescore = self.parameters.rescore if self.vectors is not None else 0
        wanted = max(k * rescore, _LEAST_RESCORED if rescore else k + _TIE_MARGIN)
        scores_QC, rows_QC = self._nearest(self.faiss_index, vectors_QD, wanted)
        if not rescore or self.vectors is None:
            return [_ranked(scores, rows, k) for scores, rows in zip(scores_QC, rows_QC, strict=True)]
        stored = self.vectors.map()
        ranked = []
        for vector_D, rows_C in zip(vectors_QD, rows_QC, strict=True):
            found = np.sort(rows_C[rows_C >= 0])  # in the order of the file
            exact = np.asarray(stored[found], dtype=np.float32) @ vector_D
            ranked.append(_ranked(exact, found, k))
        return ranked

    def best_exact(self, vectors_QD: Vectors, k: int) -> list[Ranked]:
        """The same by comparing with every stored vector."""
        assert self.vectors is not None
        faiss = import_faiss()
        exact = faiss.read_index(str(self.vectors.path), faiss.IO_FLAG_MMAP_IFC)
        scores_QC, rows_QC = self._nearest(exact, vectors_QD, k + _TIE_MARGIN)
        return [_ranked(scores, rows, k) for scores, rows in zip(scores_QC, rows_QC, strict=True)]

    def _nearest(self, index: Any, vectors_QD: Vectors, count: int) -> tuple[Any, Any]:
        count = min(count, index.ntotal)
        scores_QC, rows_QC = index.search(vectors_QD, count, params=_how_far(self.parameters, index, count))
        return scores_QC, rows_QC


def _ranked(scores: NDArray[Any], rows: NDArray[Any], k: int) -> Ranked:
    """The best ``k``, equal scores by row; FAISS fills up with row -1 where it found fewer."""
    found = rows >= 0
    scores, rows = scores[found], rows[found]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _how_far(parameters: IndexParameters, index: Any, count: int) -> Any:
    """How much of the index a search looks at, for the kinds where that is a choice."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(parameters.ef_search, count))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=parameters.nprobe)
    return None
