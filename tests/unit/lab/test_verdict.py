"""The words at the end of a lab: what the figures support, and no more."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.lab.verdict import Floats, RunScores, interval_of, t_quantile, verdict

stats = pytest.importorskip("scipy.stats")


def runs(arm: str, after_SQ: Floats, *, collapsed: tuple[int, ...] = ()) -> list[RunScores]:
    return [
        RunScores(arm=arm, seed=s, before=[0.3] * len(scores), after=list(scores), collapsed=s in collapsed)
        for s, scores in enumerate(after_SQ)
    ]


def made_up(
    gap: float, *, seeds: int, spread: float = 0.0, questions: int = 300, seed: int = 0
) -> tuple[Floats, Floats]:
    """Scores of two arms that differ by ``gap``; ``spread`` is the deviation of that gap over seeds."""
    rng = np.random.default_rng(seed)
    base = rng.random((seeds, questions)) * 0.5
    gaps = gap + rng.normal(0, spread, (seeds, 1)) if spread else np.full((seeds, 1), gap)
    return base, base + gaps + rng.normal(0, 0.2, (seeds, questions))


@pytest.mark.parametrize("df", [1, 1.5, 2, 2.7, 4, 7, 12, 25, 100, 5000])
def test_quantiles_of_t_are_right_and_never_too_small(df: float) -> None:
    exact = stats.t.ppf(0.975, df)
    assert exact - 0.001 <= t_quantile(df) <= 1.12 * exact


def test_with_one_seed_the_interval_is_the_paired_t_interval() -> None:
    a, b = made_up(0.05, seeds=1)
    exact = stats.ttest_rel(b[0], a[0]).confidence_interval(0.95)
    interval = interval_of(b - a)
    assert interval.mean - interval.margin == pytest.approx(exact.low, abs=1e-3)
    assert interval.mean + interval.margin == pytest.approx(exact.high, abs=1e-3)


def test_seeds_that_disagree_widen_the_interval() -> None:
    calm, wild = (interval_of(np.subtract(*made_up(0.1, seeds=3, spread=s)[::-1])) for s in (0.0, 0.1))
    assert wild.margin > 3 * calm.margin


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_an_interval_holds_the_truth_as_often_as_it_says(seeds: int, spread: float) -> None:
    spread = spread if seeds > 1 else 0.0  # with one seed the interval is about that seed
    missed = 0
    for trial in range(400):
        a, b = made_up(0.05, seeds=seeds, spread=spread, questions=60, seed=trial)
        interval = interval_of(b - a)
        missed += abs(interval.mean - 0.05) > interval.margin
    assert missed <= 0.08 * 400  # 5 % and three standard errors


def test_a_single_question_tells_nothing() -> None:
    assert math.isinf(interval_of(np.array([[0.5]])).margin)


def test_equal_arms_are_not_told_apart_and_the_preset_that_matters_is_named() -> None:
    base, other = made_up(0.0, seeds=3)
    words = verdict([*runs("grpo", base), *runs("calibadv", other)])
    assert words.startswith("No clear difference here: calibadv - grpo = ")
    assert words.endswith("F1 (3 seeds). --preset aggressive --seeds 5 is where it matters.")


def test_a_difference_is_claimed_with_its_direction() -> None:
    base, other = made_up(0.2, seeds=3)
    assert verdict([*runs("grpo", base), *runs("calibadv", other)]).startswith("calibadv ends above grpo: +0.")
    assert verdict([*runs("grpo", other), *runs("calibadv", base)]).startswith("calibadv ends below grpo: -0.")


def test_one_seed_says_what_it_leaves_out() -> None:
    base, other = made_up(0.2, seeds=1)
    assert "not that of training" in verdict([*runs("grpo", base), *runs("calibadv", other)])


def test_a_wide_interval_asks_for_more_seeds() -> None:
    base, other = made_up(0.1, seeds=3, spread=0.2)
    words = verdict([*runs("grpo", base), *runs("calibadv", other)], preset="aggressive")
    assert words.endswith("More seeds narrow the interval: --seeds 5.")


def test_collapsed_arms_are_named_with_how_many_of_their_seeds() -> None:
    base, other = made_up(-0.3, seeds=3)
    words = verdict([*runs("grpo", base), *runs("calibadv", other, collapsed=(0, 2))], preset="aggressive")
    assert "Collapsed: calibadv (2 of 3 seeds)." in words


def test_only_seeds_that_both_arms_finished_are_compared() -> None:
    base, other = made_up(0.2, seeds=3)
    words = verdict([*runs("grpo", base)[1:], *runs("calibadv", other)], missing=["grpo seed 0"])
    assert "(2 seeds)" in words
    assert words.endswith("Without figures: grpo seed 0.")


def test_one_arm_alone_is_compared_with_its_start() -> None:
    words = verdict(runs("calibadv", made_up(0.2, seeds=1)[1]))
    assert words.startswith("calibadv: +0.")
    assert "from before to after training (1 seed)" in words


def test_without_runs_there_is_nothing_to_say() -> None:
    assert verdict([]) == "No run has finished."


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_no_difference_is_claimed_between_an_arm_and_itself(scores: list[list[float]]) -> None:
    words = verdict([*runs("grpo", np.array(scores)), *runs("calibadv", np.array(scores))])
    assert "No clear difference here: calibadv - grpo = +0.000 ± 0.000 F1" in words
