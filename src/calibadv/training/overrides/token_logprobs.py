"""Log-probabilities of the trained tokens only (one override of TRL's trainer).

TRL sends left-padded rows with an attention mask through the model and scores every token of the completions, what
was retrieved included. Here the rows are shifted to the left edge, where causal attention needs no mask, and the
language-model head sees only the positions whose next token is trained. A whole batch (for old log-probabilities) goes
through in passes of as many tokens as those of an update. Values and gradients are those of TRL's path
(``tests/unit/training``).
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from trl import GRPOTrainer

from calibadv.models.lora import is_adapted
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.overrides.micro_batches import trimmed
from calibadv.training.packing import MAX_LOGITS, passes_of, same_number


def score_tokens(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    token_M: torch.Tensor,
    scale: float,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each given token and the entropy of its distribution, both of shape [M], float32.

    M = scored positions, D = hidden size, V = vocabulary. Logits are multiplied by ``scale`` (1 / temperature). The
    entropy has a gradient only where asked for: it holds another [M, V] until the backward pass.
    """
    logits_MV = linear(hidden_MD, weight_VD, bias_V).float() * scale
    logp_MV = logits_MV.log_softmax(-1)
    with nullcontext() if entropy_gradient else torch.no_grad():
        entropy_M = -(logp_MV.exp() * logp_MV).sum(-1)
    return logp_MV.gather(-1, token_M[:, None]).squeeze(-1), entropy_M


def add_token_head(model: Any, *, temperature: float, entropy_gradient: bool = False) -> None:
    """Let ``model(..., score_mask=...)`` return the log-probabilities and entropies of the tokens under the mask.

    With a ``router_mask`` (the tokens that are no padding) the third value is the auxiliary loss of a mixture of
    experts, as the model's own forward computes it; else it is None. All of it is part of that forward, so that
    wrappers for distributed training see one call; an adapter hands it on to the model inside.
    """
    model = model.get_base_model() if is_adapted(model) else model
    original = model.forward

    @functools.wraps(type(model).forward)
    def forward(
        self: Any,
        *args: Any,
        score_mask: torch.Tensor | None = None,
        router_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if score_mask is None:
            return original(*args, **kwargs)
        input_ids = kwargs["input_ids"]
        routing = {} if router_mask is None else {"output_router_logits": True}
        outputs = self.base_model(input_ids=input_ids, use_cache=False, **routing)
        hidden = outputs.last_hidden_state
        chosen = score_mask[:, 1:].bool()  # a token is predicted by the position before it
        hidden_MD, token_M = hidden[:, :-1][chosen], input_ids[:, 1:][chosen]
        logp_M, entropy_M = self.get_output_embeddings()(
            hidden_MD, token_M=token_M, scale=1 / temperature, entropy_gradient=entropy_gradient
        )
        if router_mask is None:
            return logp_M, entropy_M, None
        balance = balancing_loss(self)
        assert balance is not None
        return (
            logp_M,
            entropy_M,
            balance(outputs.router_logits, self.num_experts, self.num_experts_per_tok, router_mask),
        )

    model.forward = types.MethodType(forward, model)
    model.has_token_head = True
    let_score(model.get_output_embeddings())


def let_score(layer: torch.nn.Module) -> None:
    """Let ``head(hidden_MD, token_M=..., scale=...)`` return what `score_tokens` does, in pieces if there is much.

    All pieces are one call of the layer: where weights are sharded, its hooks gather them before and let go after.
    """
    if not isinstance(layer, torch.nn.Linear):
        return
    head: Any = layer
    original = head.forward

    @functools.wraps(original)
    def forward(
        self: Any,
        hidden_MD: torch.Tensor,
        *args: Any,
        token_M: torch.Tensor | None = None,
        scale: float = 1.0,
        entropy_gradient: bool = False,
    ) -> Any:
        if token_M is None:
            return original(hidden_MD, *args)
        size = max(1, MAX_LOGITS // self.out_features)
        pieces = [
            checkpoint(score_tokens, h, self.weight, self.bias, t, scale, entropy_gradient, use_reentrant=False)
            if len(token_M) > size
            else score_tokens(h, self.weight, self.bias, t, scale, entropy_gradient)
            for h, t in zip(torch.split(hidden_MD, size), torch.split(token_M, size), strict=True)
        ]
        logp_M, entropy_M = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        return logp_M, entropy_M

    head.forward = types.MethodType(forward, head)


def balancing_loss(model: Any) -> Callable[..., torch.Tensor] | None:
    """The function with which a mixture of experts computes its auxiliary loss; None when it cannot be called here."""
    model = model.get_base_model() if is_adapted(model) else model
    found = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    known = hasattr(model, "num_experts") and hasattr(model, "num_experts_per_tok")
    return found if known else None


def can_score_tokens(model: Any) -> bool:
    """Whether `add_token_head` was called for this model, and can stand in for its head.

    That is a plain linear layer on the last hidden state: no soft cap, no scale, no adapter on it.
    """
    if not getattr(model.get_base_model() if is_adapted(model) else model, "has_token_head", False):
        return False
    config = model.config.get_text_config()
    extras = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    is_linear = isinstance(model.get_output_embeddings(), torch.nn.Linear)
    return is_linear and not any(getattr(config, name, None) for name in extras)


class TrainedTokenLogprobs(GRPOTrainer):
    """Override: ``_get_per_token_logps_and_entropies`` scores only what the loss reads."""

    args: CalibAdvConfig
    _loss_mask: torch.Tensor | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Remember the loss mask for the scoring below, then TRL's own loss."""
        mask = inputs["completion_mask"]
        with self.scoring(mask * inputs["tool_mask"] if "tool_mask" in inputs else mask):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    @contextmanager
    def scoring(self, loss_mask: torch.Tensor) -> Iterator[None]:
        """Inside, only the completion tokens under the mask [B, T] are scored."""
        self._loss_mask = loss_mask
        try:
            yield
        finally:
            self._loss_mask = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        *args: Any,
        compute_aux_loss: bool = False,
        **kwargs: Any,
    ) -> Any:
        if self._loss_mask is None:
            # Of a batch that is being made: TRL wants its old log-probabilities, with neither entropies nor gradients.
            completion_mask = attention_mask[:, -logits_to_keep:]
            batch = {
                "prompt_ids": input_ids[:, :-logits_to_keep],
                "prompt_mask": attention_mask[:, :-logits_to_keep],
                "completion_ids": input_ids[:, -logits_to_keep:],
                "completion_mask": completion_mask,
                "tool_mask": torch.ones_like(completion_mask),
            }
            return self.score_batch(model, batch), None, None
        inner = self.accelerator.unwrap_model(model)
        if (compute_aux_loss and balancing_loss(inner) is None) or not can_score_tokens(inner):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, compute_aux_loss=compute_aux_loss, **kwargs
            )
        return self._score_masked(model, input_ids, attention_mask, self._loss_mask, compute_aux_loss=compute_aux_loss)

    def _score_masked(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        loss_mask: torch.Tensor,
        *,
        compute_aux_loss: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and entropies of the completion tokens under the mask (0 elsewhere), auxiliary loss."""
        score_mask = torch.zeros_like(input_ids)
        score_mask[:, -loss_mask.shape[1] :] = loss_mask
        # Left-padded prompts move to the left edge: a stable sort by "is padding" keeps the order of the tokens.
        order = attention_mask.argsort(dim=1, descending=True, stable=True)
        length = int(attention_mask.sum(1).max())
        packed_ids = input_ids.gather(1, order)[:, :length]
        packed_mask = score_mask.gather(1, order)[:, :length]
        router_mask = attention_mask.gather(1, order)[:, :length] if compute_aux_loss else None
        with self.accelerator.autocast():
            logp_M, entropy_M, aux_loss = model(input_ids=packed_ids, score_mask=packed_mask, router_mask=router_mask)
        # Rows are scanned in the same order in both layouts, so scored tokens correspond one to one.
        chosen = loss_mask.bool()
        logps = torch.zeros(chosen.shape, dtype=logp_M.dtype, device=logp_M.device).masked_scatter(chosen, logp_M)
        entropies = torch.zeros_like(logps).masked_scatter(chosen, entropy_M)
        return logps, entropies, aux_loss

    @torch.no_grad()
    def score_batch(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities under ``model`` of a whole batch's tokens under ``tool_mask`` [B, T], in passes; else 0."""
        lengths = batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)
        passes = passes_of(lengths.tolist(), budget=self.args.micro_batch_tokens)
        count = max(gather_object([len(passes)])) if self.accelerator.num_processes > 1 else len(passes)
        logps = torch.zeros(batch["completion_ids"].shape, device=batch["completion_ids"].device)
        for rows in same_number(passes, count):
            piece = trimmed(batch, rows)
            completion, width = piece["completion_ids"], piece["completion_ids"].shape[1]
            with self.scoring(piece["completion_mask"] * piece["tool_mask"]):
                scored, _, _ = TrainedTokenLogprobs._get_per_token_logps_and_entropies(
                    self,
                    model,
                    torch.cat([piece["prompt_ids"], completion], dim=1),
                    torch.cat([piece["prompt_mask"], piece["completion_mask"]], dim=1),
                    width,
                )
            if rows:
                logps[rows, :width] = scored.to(logps.dtype)
        return logps * batch["completion_mask"] * batch["tool_mask"]
