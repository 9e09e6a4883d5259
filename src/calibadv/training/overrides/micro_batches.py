"""Micro-batches without waste (one override of TRL's trainer).

TRL pads every micro-batch to the longest rollout of the whole batch and shuffles rows across mini-batches. Here a
mini-batch is a set of whole groups (256 questions in the paper), its rows are sorted by length and trimmed, and
rows whose advantages are all zero are left out where that is exact: without KL and entropy terms they have no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer

from calibadv.training.grpo_config import CalibAdvConfig

EXACT_WITHOUT_ZERO_ROWS = frozenset({"dapo", "cispo"})
"""Loss types that divide by a token count fixed beforehand, so that a row without advantage can be left out."""


def micro_batches(
    batch: dict[str, Any], *, num_mini_batches: int, per_mini_batch: int, drop_zero_rows: bool
) -> list[dict[str, Any]]:
    """Split a generation batch into ``num_mini_batches * per_mini_batch`` trimmed micro-batches.

    Mini-batches are contiguous rows (whole groups); inside one, rows are ordered by length. No micro-batch is empty.
    """
    num_rows = len(batch["completion_ids"])
    mask = batch["completion_mask"]
    if "tool_mask" in batch:
        mask = mask * batch["tool_mask"]
    advantages = batch["advantages"] if batch["advantages"].dim() == 2 else batch["advantages"][:, None]
    has_signal = ((advantages * mask) != 0).any(1)
    lengths = batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)
    pieces = []
    for rows in torch.arange(num_rows).view(num_mini_batches, -1):
        rows = rows[lengths[rows].argsort(stable=True)]
        kept = rows[has_signal[rows]] if drop_zero_rows else rows
        if len(kept) < per_mini_batch:  # no micro-batch may be empty
            spare = rows[~has_signal[rows]][: per_mini_batch - len(kept)]
            kept = torch.cat([spare, kept])
        pieces += [trimmed(batch, chunk) for chunk in torch.tensor_split(kept, per_mini_batch)]
    return pieces


def trimmed(batch: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The given rows of a batch, without the columns that are padding in all of them."""
    prompt = int(batch["prompt_mask"][rows].sum(1).max())
    completion = int(batch["completion_mask"][rows].sum(1).max())
    width = batch["completion_ids"].shape[1]
    piece = {}
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            piece[name] = value
        elif name.startswith("prompt_"):
            piece[name] = value[rows, value.shape[1] - prompt :]
        elif value.dim() == 2 and value.shape[1] == width:
            piece[name] = value[rows, :completion]
        else:
            piece[name] = value[rows]
    return piece


class LeanMicroBatches(GRPOTrainer):
    """Override: ``_prepare_inputs`` splits a generation batch by `micro_batches`."""

    args: CalibAdvConfig
    _buffered_inputs: Any  # [mini_batches * micro_batches_per_update]; TRL declares None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        assert self.model is not None
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        args = self.args
        num_micro_batches = args.mini_batches * args.micro_batches_per_update
        if self._step % (num_micro_batches * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = micro_batches(
                batch,
                num_mini_batches=args.mini_batches,
                per_mini_batch=args.micro_batches_per_update,
                # TRL gathers a value per row: with several processes, all must hold the same number of rows.
                drop_zero_rows=self.accelerator.num_processes == 1
                and self.loss_type in EXACT_WITHOUT_ZERO_ROWS
                and self.beta == 0
                and args.entropy_coef == 0
                and not args.use_adaptive_entropy
                and args.top_entropy_quantile == 1
                and not self.aux_loss_enabled,
            )
        return self._buffered_inputs[self._step % num_micro_batches]
