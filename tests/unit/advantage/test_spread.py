"""From turns to tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.advantage import spread
from calibadv.errors import DataError


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Turns with gaps between them, some without tokens, starting anywhere; values are exact in float32."""
    num_rows, num_turns = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_tokens = rng.integers(0, 5, (num_rows, num_turns))
    starts = np.cumsum(rng.integers(0, 4, num_tokens.shape) + num_tokens, axis=1) - num_tokens
    starts[num_tokens == 0] = rng.integers(-9, 99)  # Ignored.
    return {
        "advantages_NK": rng.integers(-40, 40, num_tokens.shape) / 8,
        "starts_NK": starts,
        "num_tokens_NK": num_tokens,
        "num_columns": 40 + draw(st.integers(0, 5)),
    }


@settings(deadline=None)
@given(layouts())
def test_every_token_of_a_turn_gets_its_advantage_and_all_others_zero(layout: dict[str, Any]) -> None:
    values, starts, num_tokens = layout["advantages_NK"], layout["starts_NK"], layout["num_tokens_NK"]
    want = np.zeros((len(values), layout["num_columns"]), dtype=np.float32)
    for n, k in np.argwhere(num_tokens > 0):
        want[n, starts[n, k] : starts[n, k] + num_tokens[n, k]] = values[n, k]
    got = spread(**layout)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


@settings(deadline=None)
@given(layouts())
def test_spreading_conserves_the_sum_over_tokens(layout: dict[str, Any]) -> None:
    got = spread(**layout)
    np.testing.assert_array_equal(got.sum(axis=1), (layout["advantages_NK"] * layout["num_tokens_NK"]).sum(axis=1))


def test_turns_may_touch_each_other_and_both_ends() -> None:
    got = spread([[1.0, 2.0]], starts_NK=[[0, 2]], num_tokens_NK=[[2, 1]], num_columns=3)
    assert got.tolist() == [[1.0, 1.0, 2.0]]


def test_a_trajectory_without_tokens_is_all_zero() -> None:
    assert spread([[3.0, 3.0]], starts_NK=[[0, 0]], num_tokens_NK=[[0, 0]], num_columns=2).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("starts", "num_tokens"),
    [
        pytest.param([[0, 1]], [[2, 1]], id="overlap"),
        pytest.param([[3, 0]], [[1, 1]], id="not in order"),
        pytest.param([[0, 3]], [[1, 3]], id="past the last column"),
        pytest.param([[-1, 3]], [[1, 1]], id="before the first column"),
        pytest.param([[0, 3]], [[1, -1]], id="negative count"),
    ],
)
def test_turns_that_cannot_be_laid_out_are_refused(starts: list[list[int]], num_tokens: list[list[int]]) -> None:
    with pytest.raises(DataError, match="num_columns = 5"):
        spread([[1.0, 1.0]], starts_NK=starts, num_tokens_NK=num_tokens, num_columns=5)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match=r"shapes \(1, 2\), \(1, 1\) and \(1, 2\)"):
        spread([[1.0, 1.0]], starts_NK=[[0]], num_tokens_NK=[[1, 1]], num_columns=5)
