"""Mini-batches that count rollouts, and micro-batches that count tokens (overrides of TRL's trainer).

TRL makes an optimizer step from a fixed number of micro-batches of a fixed number of rows, shuffles the rows of a
batch over them and pads all to its longest rollout. Here a mini-batch is a run of consecutive rollouts
(`calibadv.training.packing`), which goes through the model in as many passes as its tokens need: all in one training
step of the Trainer, so its own gradient accumulation is off. Rows whose advantages are all zero are left out where
that is exact: without KL, entropy and routing terms they have no gradient. The loss is that of the whole mini-batch in
one pass, on any number of processes: its normaliser is fixed before rows are left out and passes are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import gather_object
from trl import GRPOTrainer

from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.packing import mini_batches_of, passes_of, same_number

MEAN_OVER_TOKENS = frozenset({"dapo", "cispo", "vespo", "bnpo"})
"""Loss types that average over tokens; the others average over rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One forward and backward pass of this process; the other processes make theirs at the same time."""

    rows: list[int]
    """Of this process's batch; none where another process has more passes to make."""
    most_rows: int
    """The largest number of rows in this pass over all processes."""
    share: float
    """This process's part of the mini-batch, times the number of processes (whose gradients are averaged)."""


class Prepared(dict[str, Any]):
    """A micro-batch that is ready for the loss."""


def plan_passes(
    batch: dict[str, Any],
    *,
    mini_batches: Sequence[int],
    num_mini_batches: int,
    budget: int,
    drop_zero_rows: bool,
    by_tokens: bool,
    num_processes: int = 1,
) -> list[list[Pass]]:
    """The passes of every mini-batch, as many in each process; a collective where there are several processes.

    Args:
        batch: This process's rollouts, as TRL's trainer makes them.
        mini_batches: The number of each row's mini-batch.
        num_mini_batches: How many there are.
        budget: Most tokens of one pass (`passes_of`).
        drop_zero_rows: Leave rows without any advantage out.
        by_tokens: Whether the loss averages over tokens rather than rollouts.
        num_processes: How many make passes together.
    """
    tokens, has_signal = trained_tokens(batch)
    lengths = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
    weights = tokens if by_tokens else [1] * len(tokens)
    packed, totals = [], []
    for number in range(num_mini_batches):
        rows = [row for row, its in enumerate(mini_batches) if its == number]
        totals.append(sum(weights[row] for row in rows))
        kept = [row for row in rows if has_signal[row]] if drop_zero_rows else rows
        passes = passes_of([lengths[row] for row in kept], budget=budget)
        packed.append([[kept[n] for n in one] for one in passes])
    local = [(total, [len(rows) for rows in passes]) for total, passes in zip(totals, packed, strict=True)]
    everywhere = gather_object([local]) if num_processes > 1 else [local]
    plan = []
    for passes, theirs in zip(packed, zip(*everywhere, strict=True), strict=True):
        total = sum(total for total, _ in theirs)
        count = max(1, *(len(sizes) for _, sizes in theirs))
        most = [max(sizes[n] if n < len(sizes) else 1 for _, sizes in theirs) for n in range(count)]
        plan.append(
            [
                Pass(rows=rows, most_rows=size, share=num_processes * sum(weights[r] for r in rows) / max(1, total))
                for rows, size in zip(same_number(passes, count), most, strict=True)
            ]
        )
    return plan


def trained_tokens(batch: dict[str, Any]) -> tuple[list[int], list[bool]]:
    """The number of trained tokens of every row, and whether any of them has an advantage."""
    mask = batch["completion_mask"]
    if "tool_mask" in batch:
        mask = mask * batch["tool_mask"]
    advantages = batch["advantages"] if batch["advantages"].dim() == 2 else batch["advantages"][:, None]
    return mask.sum(1).tolist(), ((advantages * mask) != 0).any(1).tolist()


def trimmed(batch: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The given rows of a batch, without the columns that are padding in all of them.

    No rows give one that trains nothing: the first token or so of the shortest, with every loss mask 0. A model that is
    spread over several processes needs each of them in every pass.
    """
    if not rows:
        return untrained_row(batch)
    prompt = int(batch["prompt_mask"][rows].sum(1).max())
    completion = int(batch["completion_mask"][rows].sum(1).max())
    return cut(batch, rows, prompt=prompt, completion=completion)


def untrained_row(batch: dict[str, Any]) -> dict[str, Any]:
    """One short row with loss mask 0."""
    shortest = int(batch["prompt_mask"].sum(1).argmin())
    piece = cut(batch, [shortest], prompt=int(batch["prompt_mask"][shortest].sum()), completion=1)
    return piece | {"tool_mask": torch.zeros_like(piece["completion_mask"])}


def cut(batch: dict[str, Any], rows: Sequence[int], *, prompt: int, completion: int) -> dict[str, Any]:
    """Rows of a batch, with that many columns of prompt (right-aligned) and completion (left-aligned)."""
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
    """Overrides: ``_prepare_inputs`` plans a batch, ``training_step`` makes all passes of a mini-batch."""

    args: CalibAdvConfig
    _buffered_inputs: Any  # a batch and its plan; TRL declares None
    _pass: Pass | None = None
    current_gradient_accumulation_steps: Any  # 1 / share in a pass; the Trainer declares int

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        assert self.model is not None
        if isinstance(generation_batch, Prepared):
            return dict(generation_batch)
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        args = self.args
        if self._step % args.updates_per_batch == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = batch, self._planned(batch)
        batch, plan = self._buffered_inputs
        return [(one, Prepared(self._piece(batch, one))) for one in plan[self._step % args.mini_batches]]

    def _planned(self, batch: dict[str, Any]) -> list[list[Pass]]:
        args, processes = self.args, self.accelerator.num_processes
        assert args.num_generations is not None  # it has a default
        return plan_passes(
            batch,
            mini_batches=mini_batches_of(
                len(batch["completion_ids"]), group=args.num_generations, process=self.accelerator.process_index,
                processes=processes, mini_batches=args.mini_batches,
            ),
            num_mini_batches=args.mini_batches,
            budget=args.micro_batch_tokens,
            drop_zero_rows=self.beta == 0
            and args.entropy_coef == 0
            and not args.use_adaptive_entropy
            and args.top_entropy_quantile == 1
            and not self.aux_loss_enabled,
            by_tokens=self.loss_type in MEAN_OVER_TOKENS,
            num_processes=processes,
        )  # fmt: skip

    def _piece(self, batch: dict[str, Any], one: Pass) -> dict[str, Any]:
        piece = trimmed(batch, one.rows)
        # TRL divides by this count times `current_gradient_accumulation_steps` (1 / share): together the mean number
        # of trained tokens in a mini-batch, so that every token of a batch weighs the same.
        piece["num_items_in_batch"] = batch["num_items_in_batch"] / self.args.mini_batches * one.share
        return piece

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """All passes of one mini-batch; gradients are added up over the processes in the last (or as they must)."""
        passes = inputs if isinstance(inputs, list) else self._prepare_inputs(inputs)
        losses = []
        for n, (one, piece) in enumerate(passes):
            last = n == len(passes) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            waits = nullcontext() if last or self._reduces_every_pass else self.accelerator.no_sync(model)
            with waits, self._weighted(one):
                # The Trainer's own: TRL's counts micro-batches of its own kind.
                losses.append(super(GRPOTrainer, self).training_step(model, piece, num_items_in_batch))
        self._step += 1
        return torch.stack(losses).sum()

    @property
    def _reduces_every_pass(self) -> bool:
        """Whether gradients cannot wait for the last pass: sharded, they would be kept whole meanwhile."""
        kind = self.accelerator.distributed_type
        every = self.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False)
        return every or kind in (DistributedType.DEEPSPEED, DistributedType.FSDP)

    @contextmanager
    def _weighted(self, one: Pass) -> Iterator[None]:
        """TRL's loss of one pass as its part of the mini-batch."""
        before = self.current_gradient_accumulation_steps
        self.current_gradient_accumulation_steps = 1 / one.share if one.share else float("inf")
        self._pass = one
        gather = self.accelerator.gather

        def gather_rows(values: Any) -> Any:
            """TRL gathers a metric per row, of which processes may have different numbers: NaN stands for no row."""
            if self._pass is None or values.dim() == 0:
                return gather(values)
            return gather(torch.nn.functional.pad(values, (0, one.most_rows - len(values)), value=torch.nan))

        self.accelerator.gather = gather_rows
        try:
            yield
        finally:
            del self.accelerator.gather
            self._pass = None
            self.current_gradient_accumulation_steps = before

    def get_high_entropy_mask(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's own; it pads what it gathers."""
        one, self._pass = self._pass, None
        try:
            return super().get_high_entropy_mask(*args, **kwargs)
        finally:
            self._pass = one
