"""Reference losses in NumPy: what the trainer's torch code must equal. Small on purpose; nothing trains on them.

Policy loss: PPO-clip, the paper's equation with the token mean. Around it the other three aggregations, the regulariser
of LLDS (arXiv 2512.04220) and the estimators of the KL divergence that GRPO variants use.

Departure from the published code: where it divides by zero (a row, or a batch, without any unmasked token) the sum over
nothing counts as 0, as TRL has it.

Shape suffixes: B = rows, T = tokens.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from calibadv.advantage.grpo import Floats
from calibadv.errors import ConfigError

Aggregation: TypeAlias = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
KLEstimator: TypeAlias = Literal["kl", "abs", "mse", "low_var_kl"]

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +- this before they are exponentiated."""


class PolicyLoss(NamedTuple):
    """The loss, and what one looks at to see how far the policy moved."""

    loss: float
    gradient_BT: Floats
    """Derivative of the loss with respect to each current log-probability."""
    clip_fraction: float
    """Share of unmasked tokens whose ratio is clipped, so that they have no gradient."""
    kl: float
    """Mean of old minus current log-probability over the unmasked tokens."""


def ppo_clip_loss(
    logprobs_BT: ArrayLike,
    *,
    old_logprobs_BT: ArrayLike,
    advantages_BT: ArrayLike,
    mask_BT: ArrayLike,
    clip_ratio: float = 0.2,
    aggregation: Aggregation = "token-mean",
) -> PolicyLoss:
    """Minimise ``-min(rho * A, clip(rho, 1 - eps, 1 + eps) * A)`` with ``rho`` the ratio of new to old probability.

    >>> same = [[-1.0, -1.0]]
    >>> result = ppo_clip_loss(same, old_logprobs_BT=same, advantages_BT=[[1.0, 0.5]], mask_BT=[[1, 1]])
    >>> result.loss
    -0.75
    >>> result.gradient_BT
    array([[-0.5 , -0.25]])
    """
    logprobs, old_logprobs, advantages, mask = (
        np.asarray(x, dtype=np.float64) for x in (logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT)
    )
    log_ratio = np.clip(logprobs - old_logprobs, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = np.exp(log_ratio)
    unclipped = -advantages * ratio
    clipped = -advantages * np.clip(ratio, 1 - clip_ratio, 1 + clip_ratio)
    weights = _weights(mask, aggregation)
    moves = (unclipped >= clipped) & (np.abs(log_ratio) < MAX_LOG_RATIO)  # neither clipped nor clamped
    return PolicyLoss(
        loss=float((weights * np.maximum(unclipped, clipped)).sum()),
        gradient_BT=np.where(moves, weights * unclipped, 0.0),
        clip_fraction=masked_mean((clipped > unclipped).astype(np.float64), mask_BT=mask),
        kl=masked_mean(-log_ratio, mask_BT=mask),
    )


def lld_loss(
    logprobs_BT: ArrayLike, *, old_logprobs_BT: ArrayLike, advantages_BT: ArrayLike, mask_BT: ArrayLike
) -> float:
    """Mean drop of the log-probability over the tokens with positive advantage; a rise counts as no drop (LLDS).

    >>> lld_loss([[-1.5, -0.5]], old_logprobs_BT=[[-1.0, -1.0]], advantages_BT=[[1.0, 1.0]], mask_BT=[[1, 1]])
    0.25
    """
    drop_BT = np.maximum(np.subtract(old_logprobs_BT, logprobs_BT, dtype=np.float64), 0.0)
    return masked_mean(drop_BT, mask_BT=np.asarray(mask_BT) * (np.asarray(advantages_BT) > 0))


def kl_estimate(logprobs_BT: ArrayLike, *, reference_logprobs_BT: ArrayLike, estimator: KLEstimator) -> Floats:
    """Per-token estimate of the KL divergence from the reference policy.

    With ``d`` the current minus the reference log-probability: ``kl`` is d, ``abs`` is |d|, ``mse`` is d^2 / 2 and
    ``low_var_kl`` is exp(-d) - 1 + d, clamped to +-10.

    >>> kl_estimate([-1.0], reference_logprobs_BT=[-1.5], estimator="mse")
    array([0.125])
    """
    difference: Floats = np.subtract(logprobs_BT, reference_logprobs_BT, dtype=np.float64)
    clamped: Floats = np.clip(difference, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    estimates: dict[str, Floats] = {
        "kl": difference,
        "abs": np.abs(difference),
        "mse": difference**2 / 2,
        "low_var_kl": np.clip(np.expm1(-clamped) + clamped, -10.0, 10.0),
    }
    if estimator not in estimates:
        raise ConfigError(f"estimator must be one of {', '.join(estimates)}, got {estimator!r}")
    return estimates[estimator]


def masked_mean(values_BT: ArrayLike, *, mask_BT: ArrayLike) -> float:
    """Mean over the unmasked tokens; 0 if there are none.

    >>> masked_mean([[1.0, 5.0]], mask_BT=[[1, 0]])
    1.0
    """
    mask = np.asarray(mask_BT, dtype=np.float64)
    return float((np.asarray(values_BT) * mask).sum() / max(1.0, mask.sum()))


def _weights(mask_BT: Floats, aggregation: Aggregation) -> Floats:
    """The weight of each token in the loss."""
    num_rows, num_columns = mask_BT.shape
    divisors: dict[str, Floats | float] = {
        "token-mean": mask_BT.sum(),
        "seq-mean-token-sum": num_rows,
        "seq-mean-token-mean": num_rows * np.maximum(1.0, mask_BT.sum(axis=1, keepdims=True)),
        "seq-mean-token-sum-norm": num_columns,
    }
    if aggregation not in divisors:
        raise ConfigError(f"aggregation must be one of {', '.join(divisors)}, got {aggregation!r}")
    weights_BT: Floats = mask_BT / np.maximum(1.0, divisors[aggregation])
    return weights_BT
