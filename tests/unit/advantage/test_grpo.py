"""Group-relative advantages: edge cases first, then properties."""

import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.advantage import group_advantages, leave_one_out_advantages
from calibadv.advantage.grpo import group_index
from calibadv.errors import ConfigError, DataError

REWARDS = st.sampled_from([0.0, 0.25, 0.4, 0.5, 2 / 3, 0.8, 6 / 7, 1.0])
BATCHES = st.lists(st.tuples(REWARDS, st.sampled_from("abcd")), min_size=1, max_size=24)


def test_advantage_is_reward_minus_mean_over_sample_deviation() -> None:
    got = group_advantages([1.0, 0.0, 0.5, 0.0], group_ids=["q"] * 4)
    deviation = statistics.stdev([1.0, 0.0, 0.5, 0.0])
    assert got == pytest.approx([(r - 0.375) / (deviation + 1e-6) for r in (1.0, 0.0, 0.5, 0.0)])


def test_a_group_of_one_keeps_its_reward() -> None:
    assert group_advantages([0.5], group_ids=["q"]) == pytest.approx([0.5 / (1 + 1e-6)])
    assert group_advantages([0.5], group_ids=["q"], scale="none") == pytest.approx([0.5])
    assert leave_one_out_advantages([0.5], group_ids=["q"]) == pytest.approx([0.5])


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.4, 2 / 3, 0.8, 6 / 7, 1.0])
@pytest.mark.parametrize("size", [2, 3, 5, 7, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_rewards_give_exactly_zero(reward: float, size: int, dtype: type) -> None:
    rewards: Any = np.full(size, reward, dtype=dtype)
    assert not group_advantages(rewards, group_ids=["q"] * size).any()
    assert not leave_one_out_advantages(rewards, group_ids=["q"] * size).any()


def test_an_empty_batch_has_no_advantages() -> None:
    assert group_advantages([], group_ids=[]).shape == (0,)
    assert leave_one_out_advantages([], group_ids=[]).shape == (0,)


def test_without_scaling_the_advantage_is_the_distance_to_the_mean() -> None:
    assert group_advantages([1.0, 0.0], group_ids=["q", "q"], scale="none").tolist() == [0.5, -0.5]


def test_a_trajectory_that_takes_no_part_changes_nothing_for_the_others() -> None:
    for estimate in (group_advantages, leave_one_out_advantages):
        alone = estimate([1.0, 0.0, 0.5], group_ids=["q", "q", "q"])
        joined = estimate(
            [1.0, float("nan"), 0.0, 0.5, 3.0],
            group_ids=["q", "q", "q", "q", "other"],
            included_N=[True, False, True, True, False],
        )
        assert joined.tolist() == [alone[0], 0.0, alone[1], alone[2], 0.0]


@settings(deadline=None)
@given(BATCHES)
def test_order_in_the_batch_does_not_matter(batch: list[tuple[float, str]]) -> None:
    rewards, ids = zip(*batch, strict=True)
    for estimate in (group_advantages, leave_one_out_advantages):
        forwards = estimate(rewards, group_ids=ids)
        backwards = estimate(rewards[::-1], group_ids=ids[::-1])[::-1]
        np.testing.assert_allclose(forwards, backwards, atol=1e-12)


@settings(deadline=None)
@given(BATCHES)
def test_a_batch_is_the_sum_of_its_groups(batch: list[tuple[float, str]]) -> None:
    rewards, ids = map(np.array, zip(*batch, strict=True))
    whole = group_advantages(rewards, group_ids=ids)
    for name in set(ids.tolist()):
        members = ids == name
        np.testing.assert_allclose(whole[members], group_advantages(rewards[members], group_ids=ids[members]))


@settings(deadline=None)
@given(BATCHES)
def test_advantages_of_a_group_sum_to_zero_unless_it_is_a_group_of_one(batch: list[tuple[float, str]]) -> None:
    rewards, ids = map(np.array, zip(*batch, strict=True))
    for estimate in (group_advantages, leave_one_out_advantages):
        advantages = estimate(rewards, group_ids=ids)
        for name in set(ids.tolist()):
            if (ids == name).sum() > 1:
                assert advantages[ids == name].sum() == pytest.approx(0.0, abs=1e-9)


@settings(deadline=None)
@given(BATCHES, st.floats(1.0, 100.0), st.floats(-10.0, 10.0))
def test_scaling_and_shifting_rewards_hardly_changes_scaled_advantages(
    batch: list[tuple[float, str]], factor: float, shift: float
) -> None:
    batch = [*batch, *((r, name) for r, name in batch)]  # No group of one: those keep their reward.
    rewards, ids = map(np.array, zip(*batch, strict=True))
    before = group_advantages(rewards, group_ids=ids)
    after = group_advantages(rewards * factor + shift, group_ids=ids)
    np.testing.assert_allclose(after, before, atol=2e-3)  # The 1e-6 beside a deviation of at least 0.01.


@settings(deadline=None)
@given(st.lists(REWARDS, min_size=2, max_size=12))
def test_leave_one_out_is_the_unscaled_advantage_times_n_over_n_minus_one(rewards: list[float]) -> None:
    ids = ["q"] * len(rewards)
    factor = len(rewards) / (len(rewards) - 1)
    unscaled = group_advantages(rewards, group_ids=ids, scale="none")
    np.testing.assert_allclose(leave_one_out_advantages(rewards, group_ids=ids), unscaled * factor, atol=1e-12)


def test_group_ids_may_be_strings_integers_or_arrays_of_them() -> None:
    want = [0, 1, 0]
    for ids in (["b", "a", "b"], [7, 3, 7], np.array(["b", "a", "b"]), np.array([7, 3, 7]), tuple(np.array([7, 3, 7]))):
        assert group_index(ids, num_trajectories=3).tolist() == want


def test_other_group_ids_are_refused_since_they_may_compare_by_identity() -> None:
    with pytest.raises(DataError, match="group_ids must be strings or integers, got object"):
        group_advantages([1.0], group_ids=[object()])  # type: ignore[arg-type]


def test_bad_rewards_name_the_place_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"rewards_N\[1\] is nan; fix it, or set included_N to False there"):
        group_advantages([0.0, float("nan")], group_ids=["q", "q"])
    with pytest.raises(DataError, match=r"one dimension, got shape \(1, 2\)"):
        group_advantages([[0.0, 1.0]], group_ids=["q", "q"])
    with pytest.raises(DataError, match="group_ids has 1 entries for 2 trajectories"):
        group_advantages([0.0, 1.0], group_ids=["q"])
    with pytest.raises(DataError, match="included_N must hold 2 booleans"):
        group_advantages([0.0, 1.0], group_ids=["q", "q"], included_N=[1, 0])


def test_an_unknown_scale_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="scale must be one of"):
        group_advantages([0.0], group_ids=["q"], scale="variance")  # type: ignore[arg-type]
