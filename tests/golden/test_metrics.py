"""Parity of EM, CEM and F1.

Where we differ on purpose: a prediction or golden answer that is not text, and an empty list of golden answers, raise
DataError from every metric. The published code raises whatever comes first, from some of the metrics only: EM of an
empty list is 0 there, and F1 accepts numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calibadv.errors import DataError
from calibadv.rewards.answer_scores import cover_exact_match, exact_match, f1_score, normalize_answer

pytestmark = pytest.mark.golden

METRICS = {"em": exact_match, "cem": cover_exact_match, "f1": f1_score}


@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_the_reference(
    name: str, golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    for record in golden("metrics.jsonl"):
        if any(isinstance(record[metric], dict) for metric in METRICS):
            with pytest.raises(DataError):
                METRICS[name](record["prediction"], record["golden"])
        else:
            got = METRICS[name](record["prediction"], record["golden"])
            assert same_number(got, record[name]), record


def test_normalisation_equals_the_reference(golden: Callable[[str], Any]) -> None:
    for record in golden("metrics.jsonl"):
        if isinstance(record["normalized_prediction"], str):
            assert normalize_answer(record["prediction"]) == record["normalized_prediction"]
