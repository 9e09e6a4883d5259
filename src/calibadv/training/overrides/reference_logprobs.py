"""The reference policy of the KL term (one override of TRL's trainer).

TRL loads the reference from the model's name, which is not always where the weights came from (a GGUF file, a merged
adapter), and scores whole rows with it. Here the reference is a frozen copy of the model as it was given (or another
model), an adapter's reference is the model without it, and only trained tokens are scored. The KL term of the loss is
TRL's: ``exp(d) - d - 1`` with d = reference - policy log-probability, times the probability ratio.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from trl.trainer import grpo_trainer
from trl.trainer.utils import use_adapter

from calibadv.models.lora import is_adapted
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.overrides.token_logprobs import TrainedTokenLogprobs
from calibadv.training.timers import Clock

REFERENCE_ADAPTER = "ref"
"""TRL's name for the copy of an adapter that is its own reference."""


@contextmanager
def reference_given(model: Any, reference: Any | None) -> Iterator[None]:
    """Let TRL's constructor take ``reference`` (None: a copy of ``model``), where it would load one by name."""

    def frozen(*_: Any, **__: Any) -> Any:
        made = copy.deepcopy(model) if reference is None else reference
        return made.requires_grad_(False).eval()

    original = grpo_trainer.create_model_from_path
    grpo_trainer.create_model_from_path = frozen
    try:
        yield
    finally:
        grpo_trainer.create_model_from_path = original


class ReferenceLogprobs(TrainedTokenLogprobs):
    """Override: ``_generate_and_score_completions`` scores the trained tokens under the reference, once a batch."""

    args: CalibAdvConfig
    clock: Clock

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        beta, self.beta = self.beta, 0.0  # TRL asks it only whether to score whole rows with the reference
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = beta
        if beta:
            with self.clock.lap("logprob"):
                batch["ref_per_token_logps"] = self._reference_logps(batch)
        return batch

    def _reference_logps(self, batch: dict[str, Any]) -> torch.Tensor:
        """Of the whole batch, shape [B, T]; 0 where nothing is trained."""
        policy = self.accelerator.unwrap_model(self.model)
        of_model = self.ref_model is not None
        reference, context = (self.ref_model, nullcontext()) if of_model else (self.model, without_training(policy))
        was_training = policy.training
        policy.eval()  # a reference without dropout
        try:
            with context:
                return self.score_batch(reference, batch)
        finally:
            policy.train(was_training)


def without_training(policy: Any) -> AbstractContextManager[Any]:
    """The policy as it was before training: without its adapter, or with the adapter it started from."""
    return use_adapter(policy, adapter_name=REFERENCE_ADAPTER if REFERENCE_ADAPTER in policy.peft_config else None)


def forget_fresh_reference(model: Any) -> None:
    """Drop the copy that TRL makes of an adapter if it changes nothing: then its reference is the model itself."""
    if not is_adapted(model) or REFERENCE_ADAPTER not in model.peft_config:
        return
    copied = [p for name, p in model.named_parameters() if f"lora_B.{REFERENCE_ADAPTER}." in name]
    if not any(bool(parameter.any()) for parameter in copied):
        model.delete_adapter(REFERENCE_ADAPTER)
