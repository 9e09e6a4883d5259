"""Exact search with torch: every vector on a GPU (or in memory), compared by matrix products.

Half-precision vectors of wiki-18 take 32 GB; on one large GPU an exact search then takes milliseconds. It answers as a
FAISS index does, so `VectorIndex` holds it in the place of one.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.devices import usable_device
from calibadv.errors import ConfigError
from calibadv.retrieval.dense.vector_file import VectorFile

logger = logging.getLogger(__name__)

# Shape suffixes: Q = queries, N = vectors, C = candidates, D = dimension.

_LOAD_ROWS = 1 << 18
_SCORES = 1 << 28
"""Scores in memory at a time."""
_ROOM = 4 << 30
"""Bytes of a GPU that "auto" leaves to scores, encoder and re-ranker."""


def gpu_for(search_device: str, *, vectors: VectorFile | None, where: Path) -> str | None:
    """The GPU that is to search ``vectors``; None: FAISS does it on the CPU.

    "cuda" or "cuda:1" is an error where it cannot be done, "auto" falls back to the CPU.
    """
    if search_device == "cpu":
        return None
    if search_device != "auto" and not search_device.startswith(("cpu", "cuda")):
        raise ConfigError(f'search_device must be "auto", "cpu" or "cuda[:N]", got {search_device!r}')
    device = usable_device(search_device, setting="search_device")
    obstacle = _obstacle(device, vectors, must_fit=search_device == "auto")
    if obstacle is None:
        logger.info("The vectors of %s are searched on %s, exactly", where, device)
        return device
    if search_device != "auto":
        raise ConfigError(
            f"search_device {search_device}: {where}: {obstacle}; search on the CPU, or build the index with its "
            "vectors"
        )
    logger.info("%s is searched on the CPU: %s", where, obstacle)
    return None


def _obstacle(device: str, vectors: VectorFile | None, *, must_fit: bool) -> str | None:
    """Why the vectors cannot be searched there."""
    import torch

    if not device.startswith("cuda"):
        return "no GPU can be used here"
    if vectors is None:
        return "its vectors were not kept"
    needed, free = vectors.num_vectors * vectors.dimension * 2, torch.cuda.mem_get_info(device)[0]
    if must_fit and needed + _ROOM > free:
        return f"its vectors take {needed / 1e9:.1f} GB on a GPU, and {free / 1e9:.1f} GB are free"
    return None


class TorchIndex:
    """Vectors on a device, float16 on a GPU and as they are stored elsewhere."""

    def __init__(self, vectors: VectorFile, *, device: str) -> None:
        import torch

        self.d, self.ntotal = vectors.dimension, vectors.num_vectors
        self._device = torch.device(device)
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        try:
            self._vectors_ND = torch.empty((self.ntotal, self.d), dtype=dtype, device=self._device)
            for start in range(0, self.ntotal, _LOAD_ROWS):
                rows = torch.from_numpy(np.ascontiguousarray(vectors.read(start, start + _LOAD_ROWS)))
                self._vectors_ND[start : start + len(rows)] = rows.to(dtype)
        except RuntimeError as error:
            gigabytes = self.ntotal * self.d * dtype.itemsize / 1e9
            raise ConfigError(
                f"{vectors.path}: {gigabytes:.1f} GB of vectors do not fit on {device} ({str(error).splitlines()[0]}); "
                "search on the CPU, or convert the index to a smaller kind"
            ) from error

    def search(
        self, vectors_QD: NDArray[np.float32], count: int, params: Any = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows of the best ``count``, as `faiss.Index.search` returns them."""
        import torch

        queries_QD = torch.from_numpy(vectors_QD).to(self._device, self._vectors_ND.dtype)
        step = max(count, _SCORES // max(1, len(vectors_QD)))
        best_QC = torch.empty((len(vectors_QD), 0), device=self._device)
        rows_QC = torch.empty((len(vectors_QD), 0), dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            for start in range(0, self.ntotal, step):
                scores_QN = (queries_QD @ self._vectors_ND[start : start + step].T).float()
                found = scores_QN.topk(min(count, scores_QN.shape[1]))
                best_QC = torch.cat([best_QC, found.values], dim=1)
                rows_QC = torch.cat([rows_QC, found.indices + start], dim=1)
                order = best_QC.argsort(dim=1, descending=True, stable=True)[:, :count]
                best_QC, rows_QC = best_QC.gather(1, order), rows_QC.gather(1, order)
        return best_QC.cpu().numpy(), rows_QC.cpu().numpy()
