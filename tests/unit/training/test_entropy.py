"""The entropy bonus has a gradient, and both entropy settings train what TRL's own path trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.training.overrides.token_logprobs import score_tokens
from calibadv.training.trainer import CalibAdvTrainer


class TrlLogprobs(CalibAdvTrainer):
    """Log-probabilities and entropies by TRL's own path."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)


def weights(trainer: CalibAdvTrainer) -> torch.Tensor:
    model: Any = trainer.model
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_gradient_of_the_entropy_is_its_slope() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 4), torch.randn(7, 4)
    token, direction = torch.randint(7, (5,)), torch.randn(7, 4)

    def entropy(of: torch.Tensor) -> torch.Tensor:
        return score_tokens(hidden, of, None, token, 0.8, entropy_gradient=True)[1].sum()

    traced = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(entropy(traced), traced)
    slope = (entropy(weight + 1e-2 * direction) - entropy(weight - 1e-2 * direction)) / 2e-2
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-2)
    assert abs(float(slope)) > 0.1


def test_entropy_that_is_only_measured_has_no_gradient() -> None:
    weight = torch.randn(7, 4, requires_grad=True)
    assert not score_tokens(torch.randn(5, 4), weight, None, torch.randint(7, (5,)), 1.0)[1].requires_grad


@pytest.mark.parametrize(
    "options",
    [
        {"entropy_coef": 0.5},
        {"top_entropy_quantile": 0.3},
        {"entropy_coef": -0.5, "top_entropy_quantile": 0.3, "loss_type": "grpo"},
        {"use_adaptive_entropy": True, "entropy_coef": 0.1, "entropy_target": 10.0, "entropy_coef_delta": 0.2},
    ],
)
def test_entropy_settings_train_the_same_weights_as_trl(
    make_trainer: Callable[..., CalibAdvTrainer], options: dict[str, Any]
) -> None:
    options = options | {"old_logprobs": "recomputed"}  # the script's own would clip every loss of a negative advantage
    ours, theirs = make_trainer(**options), make_trainer(TrlLogprobs, **options)
    without = make_trainer(loss_type=options.get("loss_type", "dapo"), old_logprobs="recomputed")
    for trainer in (ours, theirs, without):
        trainer.train()
    torch.testing.assert_close(weights(ours), weights(theirs), atol=2e-5, rtol=1e-3)
    assert (weights(ours) - weights(without)).abs().max() > 1e-3


def test_a_bonus_raises_the_entropy(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    def last_entropy(**options: Any) -> float:
        trainer = make_trainer(**options, max_steps=8)
        trainer.train()
        return float([log["entropy"] for log in trainer.state.log_history if "entropy" in log][-1])

    assert last_entropy(entropy_coef=0.5) > last_entropy() > last_entropy(entropy_coef=-0.5)


def test_no_token_to_train_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.top_entropy_quantile must be in \(0, 1\], got 0"):
        RunConfig.from_mapping(
            {"model": {"path": "."}, "retrieval": {"corpus": "c"}, "training": {"top_entropy_quantile": 0.0}}
        )
