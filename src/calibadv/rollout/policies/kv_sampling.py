"""Drawing tokens: all rows at once, each row by its own seed, whatever else is in the batch.

A row's n-th draw uses the n-th number of the SplitMix64 sequence of its seed: a function of (seed, n), so nothing is
carried along and rows cannot disturb each other. Tokens come from the inverse of the cumulative distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seeds: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Number ``counts`` of each seed's sequence, in [0, 1).

    >>> uniforms(np.array([1, 1, 2], dtype=np.uint64), np.array([0, 1, 0])).round(3).tolist()
    [0.567, 0.746, 0.591]
    """
    z = seeds + (counts.astype(np.uint64) + np.uint64(1)) * _STEP  # wraps, as it should
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    numbers: npt.NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def sample(
    logits: torch.Tensor,  # [rows, vocabulary] float32
    *,
    temperature: npt.NDArray[np.float64],  # [rows]
    top_p: npt.NDArray[np.float64],  # [rows]
    uniform: npt.NDArray[np.float64],  # [rows]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Sampled ids, their log-probabilities at temperature 1, and which rows had logits that are not finite."""
    top = logits.amax(dim=-1, keepdim=True)
    weights = torch.exp(logits - top)  # the most probable token weighs 1
    norm = top + weights.sum(dim=-1, keepdim=True).log()
    greedy = temperature == 0
    if greedy.all():
        ids = logits.argmax(dim=-1)
    else:
        ids = _draw(logits, weights, temperature, top_p, uniform)
        if greedy.any():
            ids = torch.where(torch.from_numpy(greedy).to(logits.device), logits.argmax(dim=-1), ids)
    logprobs = (logits.gather(1, ids[:, None]) - norm)[:, 0]
    bad = ~torch.isfinite(norm[:, 0])
    return ids.cpu().numpy(), logprobs.cpu().numpy(), bad.cpu().numpy()


def _draw(
    logits: torch.Tensor,
    weights: torch.Tensor,
    temperature: npt.NDArray[np.float64],
    top_p: npt.NDArray[np.float64],
    uniform: npt.NDArray[np.float64],
) -> torch.Tensor:
    device = logits.device
    if not (temperature == 1).all():
        scale = torch.from_numpy(np.where(temperature > 0, temperature, 1.0)).to(device, torch.float32)
        weights = torch.softmax(logits / scale[:, None], dim=-1)
    if (top_p < 1).any():
        weights = _nucleus(weights, torch.from_numpy(top_p).to(device, torch.float32)[:, None])
    # float64: in float32 the sum over a large vocabulary is coarser than many a probability.
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    below = np.minimum(uniform, 1 - 2.0**-40)  # so that the product stays below the total
    target = torch.from_numpy(below).to(device)[:, None] * cumulative[:, -1:]
    # right=True skips tokens of weight 0, which do not raise the sum.
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def _nucleus(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the fewest most probable tokens whose share reaches ``top_p``."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p * ordered.sum(dim=-1, keepdim=True), 0.0)
    return torch.zeros_like(weights).scatter_(1, order, ordered)
