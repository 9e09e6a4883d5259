"""The Hugging Face Trainer for demonstrations: token-mean loss over what the model writes, and nothing else."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calibadv.io.files import append_json_line
from calibadv.training.overrides.checkpoint_saving import SafeCheckpoints
from calibadv.training.overrides.ddp import GradientsInBuckets
from calibadv.training.overrides.token_logprobs import add_token_head, can_score_tokens
from calibadv.training.sft.tokenize import IGNORED, Example, collate
from calibadv.training.signals import StopAtBatchEnd, StopSignals


class Examples(torch.utils.data.Dataset[Any]):
    """Examples as the Trainer wants them; ``length`` lets it put those of similar length together."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        return {"input_ids": example.token_ids, "example": example}


class DemonstrationTrainer(SafeCheckpoints, GradientsInBuckets, Trainer):
    """Override: ``compute_loss``. Where it can, the head sees only the positions that are trained."""

    def __init__(
        self,
        model: Any,
        *,
        args: TrainingArguments,
        examples: Sequence[Example],
        tokenizer: Any,
        pad_id: int,
        stop: StopSignals | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=Examples(examples),
            data_collator=functools.partial(collate_rows, pad_id=pad_id),
            processing_class=tokenizer,
        )
        self.stop = stop or StopSignals()
        self.model_accepts_loss_kwargs = True  # so that the labels of a whole optimizer step are counted
        add_token_head(self.policy_model, temperature=1.0)
        self.add_callback(StopAtBatchEnd(self.stop, updates_per_batch=1, num_processes=self.accelerator.num_processes))

    @property
    def policy_model(self) -> Any:
        """The model being trained, without wrappers for distributed training."""
        return self.accelerator.unwrap_model(self.model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Minus the log-probability of the written tokens, over their number in the optimizer step."""
        labels = inputs["labels"]
        written = labels != IGNORED
        written[:, 0] = False  # nothing comes before the first token
        logp_M = self._scores(model, inputs, written)
        count = written.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -logp_M.sum() / count
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the processes
        return (loss, {}) if return_outputs else loss

    def _scores(self, model: Any, inputs: dict[str, Any], written: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the written tokens."""
        with self.accelerator.autocast():
            if can_score_tokens(self.accelerator.unwrap_model(model)):
                # Padding is on the right, where causal attention needs no mask.
                logp_M, _, _ = model(input_ids=inputs["input_ids"], score_mask=written.long())
                return torch.as_tensor(logp_M)
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        chosen = written[:, 1:]
        logp_MV = outputs.logits[:, :-1][chosen].float().log_softmax(-1)
        token_M = inputs["input_ids"][:, 1:][chosen]
        return torch.as_tensor(logp_MV.gather(-1, token_M[:, None]).squeeze(-1))


def collate_rows(rows: Sequence[dict[str, Any]], *, pad_id: int) -> dict[str, Any]:
    """`collate` for rows of `Examples`."""
    return collate([row["example"] for row in rows], pad_id=pad_id)


class LossLines(TrainerCallback):
    """One line in ``sft.jsonl`` per optimizer step."""

    def __init__(self, path: Path, *, listeners: Sequence[Callable[[dict[str, Any]], None]]) -> None:
        self.path = path
        self.listeners = listeners

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what the Trainer logs of a step."""
        logs = kwargs.get("logs") or {}
        if "loss" not in logs or not state.is_world_process_zero:
            return
        line: dict[str, Any] = {"step": state.global_step, "epoch": round(float(logs.get("epoch", 0.0)), 4)}
        for ours, theirs in (("loss", "loss"), ("grad_norm", "grad_norm"), ("lr", "learning_rate")):
            value = float(logs[theirs]) if logs.get(theirs) is not None else math.nan
            line[ours] = value if math.isfinite(value) else None
        append_json_line(self.path, line)
        for listener in self.listeners:
            listener(line)
