"""Soft penalty, rebalance and their composition: edge cases, hand-worked groups, then properties."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.advantage import CalibrationConfig, calibrate, group_advantages, leave_one_out_advantages
from calibadv.errors import ConfigError, DataError

SOFT_ONLY = CalibrationConfig(rebalance="none")
REBALANCE_ONLY = CalibrationConfig(soft_penalty="none")
HALF = 2**-0.5 / (2**-0.5 + 1e-6) * 2**-0.5  # |A| of two trajectories with rewards 1 and 0


def one_group(
    rewards: list[float], tokens: Any, correctness: Any = None, config: CalibrationConfig | None = None
) -> Any:
    return calibrate(
        rewards, group_ids=["q"] * len(rewards), correctness_NK=correctness, num_tokens_NK=tokens, config=config
    )


# Edge cases.


def test_all_equal_rewards_give_exactly_zero_everywhere() -> None:
    for reward in (0.0, 0.8, 1.0):
        got, stats = one_group([reward] * 5, np.full((5, 3), 7), np.full((5, 3), 0.5))
        assert not got.any()
        assert stats.groups_without_signal == 1
        assert stats.mispenalised_turns == 0


def test_a_group_of_one_keeps_its_search_turns_and_loses_its_answer_turn() -> None:
    got, stats = one_group([1.0], [[5, 5]])
    assert got == pytest.approx(np.array([[1 / (1 + 1e-6), 0.0]]))
    assert stats.groups_one_sided == 1


def test_a_trajectory_without_a_search_turn_has_only_an_answer_turn() -> None:
    got, stats = one_group([1.0, 0.0], [[4], [4]], [[1.0], [1.0]])
    assert got == pytest.approx(np.array([[HALF], [-HALF]]))
    assert stats.search_turns == 0
    assert stats.mispenalised_share == 0.0


def test_after_an_empty_last_generation_the_search_turn_before_it_is_the_answer_turn() -> None:
    got, stats = one_group([1.0, 0.0], [[5, 5], [5, 0]], [[0.0, 0.0], [1.0, 0.0]], CalibrationConfig())
    assert got == pytest.approx(np.array([[HALF, HALF], [-HALF, 0.0]]))
    assert stats.search_turns == 1


def test_a_trajectory_without_any_token_counts_in_mean_and_deviation_but_not_in_the_rebalance() -> None:
    got, stats = one_group([1.0, 0.0, 0.0], [[5, 4], [0, 0], [5, 4]])
    want = group_advantages([1.0, 0.0, 0.0], group_ids=["q"] * 3)
    assert got[:, 0] == pytest.approx([want[0], 0.0, want[2]])
    assert got[:, 1] == pytest.approx([-want[2], 0.0, want[2]])
    assert stats.answer_before.negative == pytest.approx(-4 * want[2])


def test_when_the_only_negative_trajectory_has_no_tokens_the_answer_turns_are_zeroed() -> None:
    got, _ = one_group([1.0, 0.0], [[5, 4], [0, 0]])
    assert got == pytest.approx(np.array([[HALF, 0.0], [0.0, 0.0]]))


def test_a_trajectory_that_takes_no_part_gets_zero_and_changes_nothing() -> None:
    tokens, correctness = np.array([[5, 4], [6, 3], [9, 9], [2, 2]]), np.full((4, 2), 0.5)
    joined, stats = calibrate(
        [1.0, 0.0, 0.0, 1.0],
        group_ids=["q", "q", "q", "failed"],
        correctness_NK=correctness,
        num_tokens_NK=tokens,
        included_N=[True, True, False, False],
    )
    alone, alone_stats = one_group([1.0, 0.0], tokens[:2], correctness[:2])
    np.testing.assert_array_equal(joined, [*alone, [0.0, 0.0], [0.0, 0.0]])
    assert stats.as_metrics() == alone_stats.as_metrics()
    assert stats.groups == 1


def test_an_empty_batch_is_no_error() -> None:
    got, stats = calibrate([], group_ids=[], correctness_NK=None, num_tokens_NK=np.zeros((0, 4)))
    assert got.shape == (0, 4)
    assert stats.groups == 0
    assert stats.answer_after.ratio is None
    no_turns, _ = calibrate([1.0, 0.0], group_ids=[1, 1], correctness_NK=None, num_tokens_NK=np.zeros((2, 0)))
    assert no_turns.shape == (2, 0)


# The soft penalty.


def test_turn_without_silver_documents_keeps_its_full_penalty() -> None:
    got, _ = one_group([1.0, 0.0], [[5, 5], [5, 5]], [[0.0, 0.0], [0.0, 0.0]], SOFT_ONLY)
    assert got[1, 0] == pytest.approx(-HALF)


def test_a_negative_search_turn_shrinks_by_its_correctness_and_the_answer_turn_stays() -> None:
    got, stats = one_group([1.0, 0.0], [[5, 5, 5]] * 2, [[1.0, 1.0, 1.0], [0.75, 1.0, 1.0]], SOFT_ONLY)
    assert got == pytest.approx(np.array([[HALF] * 3, [-HALF / 4, 0.0, -HALF]]))
    assert not np.signbit(got[1, 1])  # 0.0, not -0.0.
    assert stats.mispenalised_turns == 2
    assert stats.mispenalised_share == 0.5


def test_interpolation_moves_a_negative_turn_towards_the_best_of_its_group_only() -> None:
    config = CalibrationConfig(soft_penalty="interpolate", rebalance="none")
    got, _ = calibrate(
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        group_ids=["a", "a", "b", "b", "b", "a"],
        correctness_NK=[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.5, 0.0]],
        num_tokens_NK=np.full((6, 2), 3),
        config=config,
    )
    best, worst = 1.0 / 3**0.5 * 2, -1.0 / 3**0.5
    assert got[:, 0] == pytest.approx([best, best, 0, 0, 0, (best + worst) / 2], abs=1e-5)
    assert got[:, 1] == pytest.approx([best, worst, 0, 0, 0, worst], abs=1e-5)


def test_correctness_that_is_nan_or_absent_is_no_correctness() -> None:
    tokens = [[5, 5], [5, 5]]
    plain, _ = one_group([1.0, 0.0], tokens, [[0.0, 0.0], [0.0, 0.0]])
    for absent in (None, np.full((2, 2), np.nan)):
        np.testing.assert_array_equal(one_group([1.0, 0.0], tokens, absent)[0], plain)


# The rebalance.


def test_positive_answer_turns_are_scaled_so_that_long_wrong_answers_weigh_more() -> None:
    got, stats = one_group([1.0, 0.0], [[10, 1], [10, 40]])
    assert got == pytest.approx(np.array([[HALF, 40 * HALF], [-HALF, -HALF]]))
    assert stats.answer_before.ratio == pytest.approx(1 / 40)
    assert stats.answer_after.ratio == pytest.approx(1.0)


def test_negative_answer_turns_are_scaled_in_the_variant() -> None:
    config = CalibrationConfig(rebalance="negative", rebalance_coef=2.0)
    got, stats = one_group([1.0, 0.0], [[10, 1], [10, 40]], None, config)
    assert got == pytest.approx(np.array([[HALF, HALF], [-HALF, -HALF / 80]]))
    assert stats.answer_after.ratio == pytest.approx(2.0)


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_group_with_one_side_only_gets_zero_on_its_answer_turns(side: Literal["positive", "negative"]) -> None:
    config = CalibrationConfig(rebalance=side)
    got, stats = calibrate(
        [1.0, 0.0, 1.0, 0.0],
        group_ids=["a", "a", "b", "b"],
        correctness_NK=None,
        num_tokens_NK=[[5, 5], [0, 0], [5, 5], [5, 5]],
        config=config,
    )
    assert got[0].tolist() == [got[0, 0], 0.0]
    assert got[2:] == pytest.approx(np.array([[HALF, HALF], [-HALF, -HALF]]))
    assert stats.groups_one_sided == 1


def test_the_soft_penalty_does_not_feed_into_the_rebalance() -> None:
    tokens = [[5, 5], [50, 5]]
    forgiven, _ = one_group([1.0, 0.0], tokens, [[0.0, 0.0], [1.0, 0.0]])
    blamed, _ = one_group([1.0, 0.0], tokens, [[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(forgiven[:, 1], blamed[:, 1])


# The statistics.


def test_mass_is_summed_over_tokens_before_and_after() -> None:
    got, stats = one_group([1.0, 0.0], [[10, 2], [20, 4]], [[0.5, 0.0], [0.5, 0.0]])
    assert stats.uncalibrated_NK == pytest.approx(np.array([[HALF, HALF], [-HALF, -HALF]]))
    assert got == pytest.approx(np.array([[HALF, 2 * HALF], [-HALF / 2, -HALF]]))
    assert stats.as_metrics() == pytest.approx(
        {
            "mispenalised_turns": 1,
            "mispenalised_share": 0.5,
            "groups_without_signal": 0,
            "groups_one_sided": 0,
            "positive_mass_before": 2 * HALF,
            "negative_mass_before": 4 * HALF,
            "positive_mass_after": 4 * HALF,
            "negative_mass_after": 4 * HALF,
            "search_positive_mass_before": 10 * HALF,
            "search_negative_mass_before": 20 * HALF,
            "search_positive_mass_after": 10 * HALF,
            "search_negative_mass_after": 10 * HALF,
        }
    )


def test_mispenalised_turns_are_counted_without_calibration_too() -> None:
    _, stats = one_group([1.0, 0.0], [[5, 5], [5, 5]], [[0.5, 0.0], [0.5, 0.0]], CalibrationConfig.plain())
    assert stats.mispenalised_turns == 1
    assert stats.search_after == stats.search_before


# Estimators.


@pytest.mark.parametrize(
    ("estimator", "function"),
    [
        ("grpo", group_advantages),
        ("dr_grpo", lambda r, **kw: group_advantages(r, scale="none", **kw)),
        ("rloo", leave_one_out_advantages),
    ],
)
def test_the_configured_estimator_is_used(estimator: Any, function: Callable[..., Any]) -> None:
    rewards, ids = [1.0, 0.0, 0.5, 0.25], ["a", "b", "a", "b"]
    got, _ = calibrate(
        rewards,
        group_ids=ids,
        correctness_NK=None,
        num_tokens_NK=np.ones((4, 2)),
        config=CalibrationConfig.plain(estimator=estimator),
    )
    np.testing.assert_array_equal(got[:, 0], function(rewards, group_ids=ids))


# Properties.


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    num_trajectories, num_turns = draw(st.integers(1, 14)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (num_trajectories, num_turns)
    return {
        "rewards_N": rng.choice([0.0, 0.0, 0.4, 2 / 3, 1.0], num_trajectories),
        "group_ids": [f"q{i}" for i in rng.integers(0, 4, num_trajectories)],
        "correctness_NK": rng.choice([np.nan, 0.0, 1 / 3, 1.0, 0.71], shape),
        "num_tokens_NK": rng.choice([0, 1, 7, 300], shape),
    }


def configs() -> st.SearchStrategy[CalibrationConfig]:
    return st.builds(
        CalibrationConfig,
        estimator=st.sampled_from(["grpo", "dr_grpo", "rloo"]),
        soft_penalty=st.sampled_from(["none", "shrink", "interpolate"]),
        rebalance=st.sampled_from(["none", "positive", "negative"]),
        rebalance_coef=st.floats(0.1, 10.0),
    )


def run(batch: dict[str, Any], config: CalibrationConfig) -> Any:
    rewards = batch["rewards_N"]
    return calibrate(rewards, **{k: v for k, v in batch.items() if k != "rewards_N"}, config=config)


@given(batches(), configs(), st.randoms(use_true_random=False))
def test_order_within_the_batch_does_not_matter(batch: dict[str, Any], config: CalibrationConfig, random: Any) -> None:
    order = list(range(len(batch["rewards_N"])))
    random.shuffle(order)
    shuffled = {k: [v[n] for n in order] if isinstance(v, list) else v[order] for k, v in batch.items()}
    plain, stats = run(batch, config)
    got, shuffled_stats = run(shuffled, config)
    np.testing.assert_allclose(got, plain[order], atol=1e-9)
    assert shuffled_stats.as_metrics() == pytest.approx(stats.as_metrics())


@given(batches(), configs())
def test_names_of_the_groups_do_not_matter(batch: dict[str, Any], config: CalibrationConfig) -> None:
    renamed = {**batch, "group_ids": [-7 * int(name[1:]) for name in batch["group_ids"]]}
    np.testing.assert_array_equal(run(renamed, config)[0], run(batch, config)[0])


@given(batches(), configs())
def test_no_correctness_and_no_rebalance_is_the_plain_estimator(
    batch: dict[str, Any], config: CalibrationConfig
) -> None:
    config = dataclasses.replace(config, rebalance="none")
    got, stats = run({**batch, "correctness_NK": None}, config)
    np.testing.assert_array_equal(got, stats.uncalibrated_NK)
    plain, _ = run(batch, CalibrationConfig.plain(estimator=config.estimator))
    np.testing.assert_array_equal(got, plain)


@given(batches(), configs())
def test_after_the_rebalance_positive_to_negative_mass_is_lambda(
    batch: dict[str, Any], config: CalibrationConfig
) -> None:
    if config.rebalance == "none":
        return
    got, _ = run(batch, config)
    tokens = batch["num_tokens_NK"]
    for name in set(batch["group_ids"]):
        members = [n for n, other in enumerate(batch["group_ids"]) if other == name and tokens[n].any()]
        last = {n: np.flatnonzero(tokens[n])[-1] for n in members}
        mass = np.array([got[n, k] * tokens[n, k] for n, k in last.items()])
        positive, negative = mass[mass > 0].sum(), -mass[mass < 0].sum()
        assert positive == pytest.approx(config.rebalance_coef * negative)


@given(batches(), configs())
def test_the_sign_never_flips_and_penalties_never_grow(batch: dict[str, Any], config: CalibrationConfig) -> None:
    if config.soft_penalty == "interpolate":
        config = dataclasses.replace(config, soft_penalty="shrink")
    got, stats = run(batch, config)
    before = stats.uncalibrated_NK
    assert (got * before >= 0).all()
    assert (np.abs(got) <= np.abs(before) + 1e-12)[~is_answer(batch)].all()


@given(batches(), configs())
def test_only_negative_search_turns_and_answer_turns_ever_change(
    batch: dict[str, Any], config: CalibrationConfig
) -> None:
    got, stats = run(batch, config)
    may_change = is_answer(batch) | (stats.uncalibrated_NK < 0)
    np.testing.assert_array_equal(got[~may_change], stats.uncalibrated_NK[~may_change])
    assert not got[batch["num_tokens_NK"] == 0].any()


@given(batches(), configs(), st.sampled_from([2, 3, 10]))
def test_token_counts_matter_only_by_their_ratio(batch: dict[str, Any], config: CalibrationConfig, factor: int) -> None:
    longer = {**batch, "num_tokens_NK": batch["num_tokens_NK"] * factor}
    np.testing.assert_allclose(run(longer, config)[0], run(batch, config)[0], atol=1e-9)


@given(batches(), configs(), st.floats(0.5, 20.0))
def test_scaling_the_rewards_scales_unscaled_estimators(
    batch: dict[str, Any], config: CalibrationConfig, factor: float
) -> None:
    config = dataclasses.replace(config, estimator="rloo" if config.estimator == "rloo" else "dr_grpo")
    scaled = {**batch, "rewards_N": batch["rewards_N"] * factor}
    np.testing.assert_allclose(run(scaled, config)[0], run(batch, config)[0] * factor, atol=1e-9)


@given(batches(), configs())
def test_padding_with_absent_turns_changes_nothing(batch: dict[str, Any], config: CalibrationConfig) -> None:
    wider = {
        **batch,
        "correctness_NK": np.pad(batch["correctness_NK"], ((0, 0), (1, 2)), constant_values=np.nan),
        "num_tokens_NK": np.pad(batch["num_tokens_NK"], ((0, 0), (1, 2))),
    }
    np.testing.assert_array_equal(run(wider, config)[0][:, 1:-2], run(batch, config)[0])


def is_answer(batch: dict[str, Any]) -> Any:
    marks = np.zeros(batch["num_tokens_NK"].shape, dtype=bool)
    for n, row in enumerate(batch["num_tokens_NK"]):
        if row.any():
            marks[n, np.flatnonzero(row)[-1]] = True
    return marks


# Settings and bad input.


def test_the_defaults_are_the_papers() -> None:
    assert CalibrationConfig() == CalibrationConfig(
        estimator="grpo",
        soft_penalty="shrink",
        rebalance="positive",
        rebalance_coef=1.0,
        correctness="share",
        silver_threshold=0.7,
    )
    assert CalibrationConfig().needs_correctness
    assert not CalibrationConfig.plain().needs_correctness


@pytest.mark.parametrize("coef", [0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), "1", None, True])
def test_a_lambda_that_no_gradient_survives_is_refused(coef: Any) -> None:
    wanted = r"(between 0.001 and 1000.0|a number|a finite number)"
    with pytest.raises(ConfigError, match=rf"calibration\.rebalance_coef must be {wanted}, got "):
        CalibrationConfig(rebalance_coef=coef)


@pytest.mark.parametrize("threshold", [0.0, 1.1, float("nan"), "0.7", False])
def test_a_silver_threshold_outside_its_range_is_refused(threshold: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"calibration\.silver_threshold must be (in \(0, 1\]|a number|a finite number), got "
    ):
        CalibrationConfig(silver_threshold=threshold)


@pytest.mark.parametrize("field", ["estimator", "soft_penalty", "rebalance", "correctness"])
@pytest.mark.parametrize("value", ["old", 1, None, ["none"]])
def test_an_unknown_name_is_refused_with_the_known_ones(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"calibration\.{field} must be (one of .*|a string), got "):
        CalibrationConfig(**{field: value})


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"num_tokens_NK must be \[2, turns\], got shape \(3, 1\)"):
        one_group([1.0, 0.0], [[1], [1], [1]])
    with pytest.raises(DataError, match="counts >= 0"):
        one_group([1.0, 0.0], [[1], [-1]])
    with pytest.raises(DataError, match="pad alike"):
        one_group([1.0, 0.0], [[1], [1]], [[0.0, 0.0], [0.0, 0.0]])
    for value in (-0.1, 1.1, np.inf, -np.inf):
        with pytest.raises(DataError, match=r"correctness_NK must be in \[0, 1\]"):
            one_group([1.0, 0.0], [[1], [1]], [[0.0], [value]])
