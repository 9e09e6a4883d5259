"""Drawing tokens: frequencies, nucleus, greedy, independence of the batch."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")


import numpy as np  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from calibadv.rollout.policies.kv_sampling import sample, uniforms  # noqa: E402


def draw(logits: Any, uniform: Any, *, temperature: float = 1.0, top_p: float = 1.0) -> Any:
    rows = len(uniform)
    return sample(
        logits.expand(rows, -1), temperature=np.full(rows, temperature), top_p=np.full(rows, top_p), uniform=uniform
    )


def test_numbers_are_uniform_and_rows_of_neighbouring_seeds_are_unrelated() -> None:
    seeds, counts = np.arange(200, dtype=np.uint64).repeat(200), np.tile(np.arange(200), 200)
    numbers = uniforms(seeds, counts)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs(np.histogram(numbers, bins=20)[0] / len(numbers) - 0.05).max() < 0.005
    grid = numbers.reshape(200, 200)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -30.0]])
    uniform = (np.arange(20_000) + 0.5) / 20_000
    ids, logprobs, bad = draw(logits, uniform, temperature=temperature)
    want = torch.softmax(logits[0] / temperature, dim=-1).numpy()
    assert np.bincount(ids, minlength=5) / 20_000 == pytest.approx(want, abs=1e-4)
    # Log-probabilities are those at temperature 1, whatever the temperature of the draw.
    assert logprobs == pytest.approx(torch.log_softmax(logits[0], dim=-1).numpy()[ids], abs=1e-6)
    assert not bad.any()


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
    uniform = (np.arange(1000) + 0.5) / 1000
    ids, logprobs, _ = draw(logits, uniform, top_p=0.7)
    assert np.bincount(ids, minlength=4) / 1000 == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=2e-3)
    assert logprobs[ids == 1] == pytest.approx(np.log(0.5), abs=1e-6)
    assert set(draw(logits, uniform, top_p=1e-6)[0]) == {1}


def test_greedy_rows_may_stand_beside_sampled_ones() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    ids, _, _ = sample(logits, temperature=np.array([0.0, 1.0]), top_p=np.ones(2), uniform=np.zeros(2))
    assert ids.tolist() == [1, 0]


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**32 - 1))
def test_a_token_of_probability_zero_is_never_drawn(uniform: float, seed: int) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
    logits[:, ::2] = float("-inf")
    ids, logprobs, bad = draw(logits, np.array([uniform]))
    assert ids[0] % 2 == 1
    assert np.isfinite(logprobs).all()
    assert not bad.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_with_broken_logits_are_reported(value: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    _, _, bad = sample(logits, temperature=np.ones(3), top_p=np.ones(3), uniform=np.full(3, 0.5))
    assert bad.tolist() == [False, True, False]
