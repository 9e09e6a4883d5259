"""How many rows of keys and values a GPU has room for."""

from __future__ import annotations

from typing import Any

import torch

MOST_ROWS = 512
USED = 0.8
"""Of the free memory: the rest is for logits, activations and copies while the cache grows."""
WAITING = 1.25
"""Rows in the cache for each that writes (`TransformersPolicy.cache_rows`)."""


def rows_that_fit(*, free: int, row_bytes: int) -> int:
    """Turns that can be written at once with that many bytes free.

    >>> rows_that_fit(free=80 * 2**30, row_bytes=2**29), rows_that_fit(free=2**20, row_bytes=2**29)
    (102, 1)
    """
    return min(MOST_ROWS, max(1, int(USED * free / (WAITING * row_bytes))))


def row_bytes(config: Any, *, tokens: int, itemsize: int) -> int:
    """Keys and values of one row of that many tokens, by the model's configuration."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * itemsize * tokens)


def free_bytes(device: torch.device) -> int:
    """Free on the GPU, or held by torch without need."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def key_itemsize(model: Any, device: torch.device) -> int:
    """Bytes of one number in the cache: autocast decides where it is on."""
    if torch.is_autocast_enabled(device.type):
        return int(torch.get_autocast_dtype(device.type).itemsize)
    return int(next(model.parameters()).dtype.itemsize)
