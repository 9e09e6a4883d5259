"""Calibrated advantages in place of TRL's (one override of TRL's trainer).

TRL generates, rewards and normalises as always. Then its advantages of shape (B,) are replaced by ours of shape (B, T),
which its loss accepts on purpose, and the old log-probabilities by those of the sampler where they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer

from calibadv.advantage import Estimator, spread
from calibadv.errors import ConfigError
from calibadv.training.credit import BatchCredit, Outcome, assign_credit, padded
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.timers import Clock
from calibadv.training.trl_batch import check_trained_tokens, turn_starts
from calibadv.trajectory import Trajectory


class CalibratedAdvantages(GRPOTrainer):
    """Override: ``_generate_and_score_completions`` ends with calibrated advantages."""

    args: CalibAdvConfig
    clock: Clock
    estimator: Estimator | None = None
    _generating = False

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._generating = True
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self._generating = False
        trajectories, local = trajectories_of(inputs), [row["outcome"] for row in inputs]
        check_batch_tokens(batch, trajectories)
        outcomes = gather_object(local) if self.accelerator.num_processes > 1 else local
        credit = assign_credit(outcomes, config=self.args.calibration_config, estimator=self.estimator)
        first = self.accelerator.process_index * len(local)
        rows = slice(first, first + len(local))
        advantages = token_advantages(credit, rows, trajectories, num_columns=batch["completion_ids"].shape[1])
        batch["advantages"] = torch.as_tensor(advantages, device=batch["completion_ids"].device)
        if "old_per_token_logps" in batch:
            old = batch["sampling_per_token_logps" if self.uses_sampled_logprobs else "old_per_token_logps"]
            # 0 where nothing is trained, as the new ones will be: a ratio there could be infinite, and infinity is not
            # masked by a product with 0.
            batch["old_per_token_logps"] = old * batch["completion_mask"] * batch["tool_mask"]
        self.batch_credited(trajectories, local, credit, rows)
        return batch

    def batch_credited(
        self, trajectories: Sequence[Trajectory], outcomes: Sequence[Outcome], credit: BatchCredit, rows: slice
    ) -> None:
        """Called after every batch with this process's trajectories; ``rows`` are theirs in ``credit``. For records."""

    @property
    def policy_model(self) -> Any:
        """The model being trained, without wrappers for distributed training."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def uses_sampled_logprobs(self) -> bool:
        """Whether the sampler's log-probabilities serve as the old ones of the loss; never those of another engine."""
        if self.args.use_vllm:
            return False
        half = self.args.bf16 or self.args.fp16 or next(self.policy_model.parameters()).dtype != torch.float32
        exact = not half and self.temperature == 1
        return self.args.old_logprobs == "sampled" or (self.args.old_logprobs == "auto" and exact)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        if self._generating and self.uses_sampled_logprobs and model is self.model:
            # TRL would run the model once more for what the sampler has already told; replaced right after.
            return torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device), None, None
        with self.clock.lap("logprob") if self._generating else nullcontext():
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )


def trajectories_of(inputs: Sequence[dict[str, Any]]) -> list[Trajectory]:
    """The trajectories that the rollout function handed over, graded; `ConfigError` if it handed over none.

    Without them no query correctness can arrive, and a run that claims to be calibrated would silently be plain GRPO.
    """
    trajectories = [row.get("trajectory") for row in inputs]
    if not all(isinstance(t, Trajectory) for t in trajectories) or not all("outcome" in row for row in inputs):
        raise ConfigError(
            "the rollout function returned no 'trajectory' and 'outcome' fields, so no reward and no query correctness "
            "arrive: use calibadv.training.make_rollout_func, or train with trl.GRPOTrainer"
        )
    return trajectories  # type: ignore[return-value]


def token_advantages(
    credit: BatchCredit, rows: slice, trajectories: Sequence[Trajectory], *, num_columns: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Advantages of the given rows of a batch over the columns of its completions, shape [B, num_columns]."""
    advantages_NK = credit.after_NK[rows]
    num_tokens_NK = padded([[len(turn.token_ids) for turn in t.turns] for t in trajectories]).astype(np.int64)
    num_tokens_NK = np.pad(num_tokens_NK, ((0, 0), (0, advantages_NK.shape[1] - num_tokens_NK.shape[1])))
    starts_NK = turn_starts(trajectories, num_turns=advantages_NK.shape[1])
    return spread(advantages_NK, starts_NK=starts_NK, num_tokens_NK=num_tokens_NK, num_columns=num_columns)


def check_batch_tokens(batch: dict[str, Any], trajectories: Sequence[Trajectory]) -> None:
    """Trained ids = sampled ids, for every row of the batch."""
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    for ids, row_mask, trajectory in zip(batch["completion_ids"], mask, trajectories, strict=True):
        check_trained_tokens(trajectory, ids[row_mask].tolist())
