"""From turns to tokens: write each turn's advantage onto the tokens that the model wrote in it.

The last step of the method, and the only one that touches arrays as wide as the context.

Shape suffixes: N = trajectories of the batch, K = turns (padded), T = token columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibadv.errors import DataError


def spread(
    advantages_NK: ArrayLike, *, starts_NK: ArrayLike, num_tokens_NK: ArrayLike, num_columns: int
) -> NDArray[np.float32]:
    """Advantages of turns as advantages of tokens: ``advantages_NT``, 0 outside of the turns.

    Args:
        advantages_NK: One advantage for each turn, from `calibrate`.
        starts_NK: Column of each turn's first token; ignored where a turn has no tokens.
        num_tokens_NK: How many tokens from there on the turn has. Turns stand in order and do not overlap.
        num_columns: T, the width of the result.

    Returns:
        Advantages [N, T].

    Raises:
        DataError: Shapes that do not agree, or turns that overlap or end behind the last column.

    >>> spread([[0.5, -1.0]], starts_NK=[[1, 4]], num_tokens_NK=[[2, 1]], num_columns=6)
    array([[ 0. ,  0.5,  0.5,  0. , -1. ,  0. ]], dtype=float32)
    """
    advantages = np.asarray(advantages_NK, dtype=np.float32)
    num_tokens, starts = np.asarray(num_tokens_NK), np.asarray(starts_NK)
    if advantages.ndim != 2 or not advantages.shape == starts.shape == num_tokens.shape:
        raise DataError(
            "advantages_NK, starts_NK and num_tokens_NK must be [trajectories, turns] alike, got shapes "
            f"{advantages.shape}, {starts.shape} and {num_tokens.shape}"
        )
    num_rows, num_turns = advantages.shape
    # An absent turn is an empty run at the end of the turn before it.
    ends = np.maximum.accumulate(np.where(num_tokens > 0, starts + num_tokens, 0), axis=1)
    ends_before = np.concatenate([np.zeros((num_rows, 1), dtype=ends.dtype), ends], axis=1)
    gaps = np.where(num_tokens > 0, starts - ends_before[:, :-1], 0)
    tails = num_columns - ends_before[:, -1]
    if (num_tokens < 0).any() or (gaps < 0).any() or (tails < 0).any():
        raise DataError(
            f"turns must have counts >= 0, stand in order without overlap and end within num_columns = {num_columns}"
        )
    # Each row as runs: gap, turn, gap, turn, ..., tail.
    values = np.zeros((num_rows, 2 * num_turns + 1), dtype=np.float32)
    lengths = np.empty(values.shape, dtype=np.intp)
    values[:, 1::2] = advantages
    lengths[:, 0:-1:2], lengths[:, 1::2], lengths[:, -1] = gaps, num_tokens, tails
    return np.repeat(values.ravel(), lengths.ravel()).reshape(num_rows, num_columns)
