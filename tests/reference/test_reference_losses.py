"""Reference losses: derivatives by differences, and what happens without tokens."""

from typing import Any

import numpy as np
import pytest

from calibadv.errors import ConfigError
from reference_losses import kl_estimate, lld_loss, ppo_clip_loss

AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def batch() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "logprobs_BT": rng.normal(-1.5, 0.5, (3, 6)),
        "old_logprobs_BT": rng.normal(-1.5, 0.5, (3, 6)),
        "advantages_BT": rng.normal(0.0, 1.0, (3, 6)),
        "mask_BT": rng.integers(0, 2, (3, 6)),
    }


def loss(given: dict[str, Any], aggregation: Any) -> Any:
    rest = {name: value for name, value in given.items() if name != "logprobs_BT"}
    return ppo_clip_loss(given["logprobs_BT"], **rest, aggregation=aggregation)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_gradient_is_the_derivative_of_the_loss(aggregation: str) -> None:
    given, step = batch(), 1e-6
    want = np.zeros((3, 6))
    for place in np.ndindex(3, 6):
        sides = []
        for sign in (1, -1):
            moved = given["logprobs_BT"].copy()
            moved[place] += sign * step
            sides.append(loss({**given, "logprobs_BT": moved}, aggregation).loss)
        want[place] = (sides[0] - sides[1]) / (2 * step)
    np.testing.assert_allclose(loss(given, aggregation).gradient_BT, want, atol=1e-7)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_loss_over_no_token_is_zero(aggregation: str) -> None:
    result = loss({**batch(), "mask_BT": np.zeros((3, 6))}, aggregation)
    assert (result.loss, result.clip_fraction, result.kl) == (0.0, 0.0, 0.0)
    assert not result.gradient_BT.any()


def test_a_row_without_tokens_counts_as_a_row_with_loss_zero() -> None:
    given = batch()
    given["mask_BT"] = np.array([[1] * 6, [1] * 6, [0] * 6])
    two = {name: value[:2] for name, value in given.items()}
    assert loss(given, "seq-mean-token-mean").loss == pytest.approx(loss(two, "seq-mean-token-mean").loss * 2 / 3)


def test_token_mean_weighs_every_token_alike() -> None:
    same = np.zeros((2, 3))
    given = {
        "logprobs_BT": same,
        "old_logprobs_BT": same,
        "advantages_BT": [[1.0, 1.0, 1.0], [4.0, 9.0, 9.0]],
        "mask_BT": [[1, 1, 1], [1, 0, 0]],
    }
    assert loss(given, "token-mean").loss == pytest.approx(-7 / 4)
    assert loss(given, "seq-mean-token-mean").loss == pytest.approx(-5 / 2)
    assert loss(given, "seq-mean-token-sum").loss == pytest.approx(-7 / 2)
    assert loss(given, "seq-mean-token-sum-norm").loss == pytest.approx(-7 / 3)


def test_a_ratio_beyond_the_clip_range_has_no_gradient_on_the_side_that_would_push_further() -> None:
    result = ppo_clip_loss(
        [[0.5, 0.5, -0.5, -0.5]],
        old_logprobs_BT=np.zeros((1, 4)),
        advantages_BT=[[1.0, -1.0, 1.0, -1.0]],
        mask_BT=np.ones((1, 4)),
    )
    assert (result.gradient_BT != 0).tolist() == [[False, True, True, False]]
    assert result.clip_fraction == 0.5


def test_extreme_ratios_stay_finite() -> None:
    result = ppo_clip_loss([[900.0]], old_logprobs_BT=[[-900.0]], advantages_BT=[[-1.0]], mask_BT=[[1]])
    assert result.loss == pytest.approx(np.exp(20.0))
    assert result.gradient_BT.tolist() == [[0.0]]
    assert kl_estimate([[-900.0]], reference_logprobs_BT=[[900.0]], estimator="low_var_kl").tolist() == [[10.0]]


def test_lld_without_a_positive_advantage_is_zero() -> None:
    assert lld_loss([[-2.0]], old_logprobs_BT=[[-1.0]], advantages_BT=[[-1.0]], mask_BT=[[1]]) == 0.0


def test_unknown_names_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="aggregation must be one of token-mean"):
        loss(batch(), "mean")
    with pytest.raises(ConfigError, match="estimator must be one of kl, abs, mse, low_var_kl"):
        kl_estimate([0.0], reference_logprobs_BT=[0.0], estimator="k3")  # type: ignore[arg-type]
