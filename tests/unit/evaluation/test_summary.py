"""Means, intervals and pass@k."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.evaluation import Grade, pass_at_k, summarise
from calibadv.evaluation.grade import METRICS
from calibadv.evaluation.statistics import draw_means, pass_ks


def grades(values: Sequence[Sequence[float]], *, dataset: str = "a", names: Sequence[str] = METRICS) -> list[Grade]:
    """``values[question][sample]``."""
    return [
        Grade(dataset=dataset, question_id=str(q), sample=s, values=dict.fromkeys(names, float(value)))
        for q, samples in enumerate(values)
        for s, value in enumerate(samples)
    ]


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(case: tuple[int, int, int]) -> None:
    num_samples, num_correct, k = case
    samples = [1] * num_correct + [0] * (num_samples - num_correct)
    draws = [any(draw) for draw in itertools.combinations(samples, k)]
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_is_reported_when_every_question_has_the_same_number_of_samples() -> None:
    (summary,) = summarise(grades([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]), seconds={"a": 1.0})
    got = {k: summary.estimates[f"pass@{k}"].mean for k in pass_ks(4)}
    assert got == {1: pytest.approx(1.25 / 3), 2: pytest.approx(1.5 / 3), 4: pytest.approx(2 / 3)}
    assert summary.estimates["pass@1"].mean == pytest.approx(summary.estimates["em"].mean)
    (uneven,) = summarise(grades([[1, 0], [1]]), seconds={"a": 1.0})
    assert not [name for name in uneven.estimates if name.startswith("pass")]


def test_a_metric_that_some_rollout_lacks_is_left_out() -> None:
    known = [name for name in METRICS if name != "tokens"]
    (summary,) = summarise([*grades([[1]]), *grades([[1], [0]], names=known)[1:]], seconds={"a": 1.0})
    assert list(summary.estimates) == known


def test_the_macro_interval_counts_data_sets_alike_and_their_draws_are_apart() -> None:
    rng = np.random.default_rng(0)
    values = {name: [[v] for v in rng.random(50)] for name in "abcd"}
    rows = [grade for name, of_set in values.items() for grade in grades(of_set, dataset=name)]
    summaries = {s.name: s for s in summarise(rows, seconds=dict.fromkeys("abcd", 1.0))}
    macro = summaries["macro"].estimates["f1"]
    assert macro.mean == pytest.approx(np.mean([summaries[name].estimates["f1"].mean for name in "abcd"]))
    assert macro.standard_error is not None
    assert macro.high - macro.low == pytest.approx(2 * 1.96 * macro.standard_error, rel=0.15)
    same = np.array([[v] for [v] in values["a"]])
    assert not np.array_equal(draw_means(same, name="a", seed=0), draw_means(same, name="b", seed=0))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(60):
        values = rng.random(60) < 0.3
        (summary,) = summarise(grades([[v] for v in values]), seconds={"a": 1.0}, seed=int(rng.integers(1 << 30)))
        hits += summary.estimates["f1"].low <= 0.3 <= summary.estimates["f1"].high
    assert hits / 60 >= 0.85


def test_the_draws_are_those_of_a_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=(300, 2))
    draws = draw_means(values, name="a", seed=0)
    assert draws.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.01)
    assert draws.std(axis=0) == pytest.approx(values.std(axis=0) / math.sqrt(300), rel=0.1)
