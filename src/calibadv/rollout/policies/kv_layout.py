"""Where the tokens of one packed forward belong: which cache row and position each has, and what it may look at.

All new tokens of a tick go through the model as one sequence without padding: first the rows that write (one token
each), then the rows that read (a prompt or an observation). Only attention needs to know the rows; `kv_cache.attend`
asks here.

Shape suffixes: S tokens of the tick, R cache rows, D writing rows, B reading rows of one group, L their longest chunk,
K keys, G query heads per key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

IntArray = npt.NDArray[np.int64]

# Reading rows whose chunks differ by more than this factor are not padded to one length, unless they are short anyway.
CHUNK_RATIO, SHORT_CHUNK = 2, 64
# Attention of the writing rows runs over the rows of the cache as they lie when at least this share of them writes.
DENSE_SHARE = 0.5
# With ``gather`` it runs over copies instead, of about this many rows each, grouped by length. On a CPU the copy pays
# for itself: it reads memory in order, and leaves out what short rows would be padded with.
ROWS_PER_GROUP = 20


@dataclass(slots=True)
class Mask:
    """What may be looked at, as a bool array and as the additive mask of the queries' type, made once per tick."""

    allowed: torch.Tensor
    _added: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)

    def added(self, dtype: torch.dtype) -> torch.Tensor:
        if dtype not in self._added:
            zero = torch.zeros((), dtype=dtype, device=self.allowed.device)
            self._added[dtype] = torch.where(self.allowed, zero, float("-inf"))
        return self._added[dtype]


@dataclass(slots=True, kw_only=True)
class Writing:
    """Rows with one new token."""

    rows_D: torch.Tensor
    tokens_D: torch.Tensor
    """Where in the tick their tokens stand."""
    num_keys: int
    num_rows: int
    """Rows [0, num_rows) of the cache are looked at as they lie; 0: the rows are copied together first."""
    mask: Mask  # [R or D, 1, 1, K]


@dataclass(slots=True, kw_only=True)
class Reading:
    """Rows with several new tokens, padded to one length for attention only."""

    rows_B: torch.Tensor
    tokens_BL: torch.Tensor
    """Where in the tick each (padded) token stands."""
    num_keys: int
    mask: Mask  # [B, 1, L, K]
    valid: torch.Tensor
    """Flat indices into [B * L] that are tokens, and ..."""
    tokens: torch.Tensor
    """... where in the tick these stand."""

    def mask_for(self, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask for ``groups`` query heads per key head, laid one after the other along the queries."""
        added = self.mask.added(dtype)
        return added if groups == 1 else added.repeat(1, 1, groups, 1)


@dataclass(slots=True, kw_only=True)
class Layout:
    """One tick."""

    num_tokens: int
    rows_S: torch.Tensor
    positions_S: torch.Tensor
    writing: tuple[Writing, ...]
    reading: tuple[Reading, ...]
    _cells: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def cells(self, *, num_heads: int, capacity: int) -> torch.Tensor:
        """Flat indices of the tick's (token, head) cells in a cache of shape [R, num_heads, capacity, dim]."""
        key = (num_heads, capacity)
        if key not in self._cells:
            heads = torch.arange(num_heads, device=self.rows_S.device)
            row_head = self.rows_S[:, None] * num_heads + heads
            self._cells[key] = (row_head * capacity + self.positions_S[:, None]).flatten()
        return self._cells[key]


def make_layout(
    *,
    writing_rows: IntArray,
    writing_positions: IntArray,
    reading_rows: Sequence[int],
    reading_starts: Sequence[int],
    reading_sizes: Sequence[int],
    device: torch.device,
    gather: bool,
) -> Layout:
    """The layout of a tick.

    Each of ``writing_rows`` has a token at its ``writing_positions``, each reading row a chunk of ``reading_sizes``
    tokens from ``reading_starts`` on.
    """
    rows = [writing_rows, *(np.full(n, row) for row, n in zip(reading_rows, reading_sizes, strict=True))]
    positions = [
        writing_positions,
        *(np.arange(start, start + n) for start, n in zip(reading_starts, reading_sizes, strict=True)),
    ]
    rows_S, positions_S = np.concatenate(rows), np.concatenate(positions)
    groups = group_by_size(reading_sizes)
    offsets = len(writing_rows) + np.concatenate([[0], np.cumsum(reading_sizes)]).astype(np.int64)
    return Layout(
        num_tokens=len(rows_S),
        rows_S=_tensor(rows_S, device),
        positions_S=_tensor(positions_S, device),
        writing=_writing(writing_rows, writing_positions, device, gather),
        reading=tuple(
            _reading(
                np.array([reading_rows[i] for i in group]), np.array([reading_starts[i] for i in group]),
                np.array([reading_sizes[i] for i in group]), offsets[group], device,
            )
            for group in groups
        ),
    )  # fmt: skip


def group_by_size(sizes: Sequence[int]) -> list[list[int]]:
    """Indices in groups of similar size.

    >>> group_by_size([300, 20, 10, 400])
    [[2, 1], [0, 3]]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        smallest = sizes[groups[-1][0]] if groups else 0
        if groups and (sizes[index] <= SHORT_CHUNK or sizes[index] <= CHUNK_RATIO * smallest):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _writing(rows_D: IntArray, positions_D: IntArray, device: torch.device, gather: bool) -> tuple[Writing, ...]:
    if not len(rows_D):
        return ()
    num_rows = int(rows_D.max()) + 1
    if not gather and len(rows_D) >= DENSE_SHARE * num_rows:
        last_R = np.zeros(num_rows, dtype=np.int64)  # rows that do not write look at key 0; nobody reads what they get
        last_R[rows_D] = positions_D
        return (_write_group(rows_D, np.arange(len(rows_D)), last_R, num_rows, device),)
    count = max(1, len(rows_D) // ROWS_PER_GROUP)
    groups = np.array_split(np.argsort(positions_D, kind="stable"), count)
    return tuple(_write_group(rows_D[group], group, positions_D[group], 0, device) for group in groups)


def _write_group(rows_D: IntArray, tokens_D: IntArray, last: IntArray, num_rows: int, device: torch.device) -> Writing:
    num_keys = int(last.max()) + 1
    allowed = torch.arange(num_keys, device=device) <= _tensor(last, device)[:, None]
    return Writing(
        rows_D=_tensor(rows_D, device),
        tokens_D=_tensor(tokens_D, device),
        num_keys=num_keys,
        num_rows=num_rows,
        mask=Mask(allowed[:, None, None, :]),
    )


def _reading(
    rows_B: IntArray, starts_B: IntArray, sizes_B: IntArray, offsets_B: IntArray, device: torch.device
) -> Reading:
    longest = int(sizes_B.max())
    steps = np.arange(longest)
    real_BL = steps < sizes_B[:, None]
    # A padded token repeats the last real one: it costs a little and touches nothing.
    steps_BL = np.minimum(steps, sizes_B[:, None] - 1)
    tokens_BL = offsets_B[:, None] + steps_BL
    positions_BL = _tensor(starts_B[:, None] + steps_BL, device)
    num_keys = int((starts_B + sizes_B).max())
    allowed = torch.arange(num_keys, device=device) <= positions_BL[:, :, None]
    return Reading(
        rows_B=_tensor(rows_B, device),
        tokens_BL=_tensor(tokens_BL, device),
        num_keys=num_keys,
        mask=Mask(allowed[:, None]),
        valid=_tensor(np.flatnonzero(real_BL), device),
        tokens=_tensor(tokens_BL[real_BL], device),
    )


def _tensor(array: IntArray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device, non_blocking=True)
