"""Parity of the reference losses.

Where we differ on purpose: the published code divides by zero in a row (seq-mean-token-mean) or a batch (token-mean,
and all masked means) without any unmasked token, recorded as null. Ours takes the mean over nothing as 0, so that one
void rollout does not void a whole update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from calibadv.rewards.perplexity import is_garbled, segment_perplexities
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn
from reference_losses import Aggregation, KLEstimator, kl_estimate, lld_loss, masked_mean, ppo_clip_loss

pytestmark = pytest.mark.golden

AGGREGATIONS = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def assert_same(got: Any, want: Any) -> None:
    assert np.all(np.abs(np.asarray(got) - want) <= 1e-5 * np.maximum(1.0, np.abs(want)))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_policy_loss_and_its_gradient_equal_the_reference(
    aggregation: Aggregation, golden: Callable[[str], Any]
) -> None:
    for case in golden("losses.json.gz")["cases"]:
        result = ppo_clip_loss(
            case["log_prob"],
            old_logprobs_BT=case["old_log_prob"],
            advantages_BT=case["advantages"],
            mask_BT=case["mask"],
            clip_ratio=case["clip_ratio"],
            aggregation=aggregation,
        )
        want = case["policy"][aggregation]
        if want["loss"] is None:
            has_empty_row = not np.asarray(case["mask"]).any(axis=1).all()
            assert has_empty_row
            assert np.isfinite(result.loss)
            assert np.isfinite(result.gradient_BT).all()
        else:
            assert_same(result.loss, want["loss"])
            assert_same(result.gradient_BT, want["grad_log_prob"])
        assert_same(result.clip_fraction, case["clip_fraction"] or 0.0)
        assert_same(result.kl, case["ppo_kl"] or 0.0)


def test_lld_term_equals_the_reference_whose_gate_never_fires(golden: Callable[[str], Any]) -> None:
    for case in golden("losses.json.gz")["cases"]:
        got = lld_loss(
            case["log_prob"],
            old_logprobs_BT=case["old_log_prob"],
            advantages_BT=case["advantages"],
            mask_BT=case["mask"],
        )
        assert_same(got, case["lld"]["no_gating"]["lld_loss"])
        assert_same(got, case["lld"]["gating"]["lld_loss"])


@pytest.mark.parametrize("estimator", ["kl", "abs", "mse", "low_var_kl"])
def test_kl_estimates_equal_the_reference(estimator: KLEstimator, golden: Callable[[str], Any]) -> None:
    for case in golden("losses.json.gz")["cases"]:
        got = kl_estimate(case["log_prob"], reference_logprobs_BT=case["ref_log_prob"], estimator=estimator)
        assert_same(got, case["kl"][estimator]["per_token"])
        assert_same(masked_mean(got, mask_BT=case["mask"]), case["kl"][estimator]["masked_mean"] or 0.0)


def trajectory_of(segments: list[list[int]], logprobs: list[float]) -> Trajectory:
    turns = tuple(
        Turn(
            text="x",
            action=Action(ActionKind.INVALID),
            token_ids=tuple(range(end - start)),
            logprobs=tuple(logprobs[start:end]),
        )
        for start, end in segments
    )
    question = Question(id="q", text="?", golden_answers=("a",))
    return Trajectory(question=question, prompt="?", turns=turns, stop_reason=StopReason.INVALID_ACTION)


def test_garbled_verdict_and_perplexities_equal_the_reference(golden: Callable[[str], Any]) -> None:
    for case in golden("losses.json.gz")["garbled"]:
        reference = trajectory_of(case["segments"], case["ref_log_prob"])
        old = trajectory_of(case["segments"], case["old_log_prob"])
        assert list(segment_perplexities(reference)) == pytest.approx(case["segment_ppl_ref"], rel=1e-5)
        assert list(segment_perplexities(old)) == pytest.approx(case["segment_ppl_old"], rel=1e-5)
        threshold = case["threshold"]
        assert is_garbled(reference, threshold=threshold) is case["garbled_eval"]
        assert (is_garbled(reference, threshold=threshold) or is_garbled(old, threshold=threshold)) is case["garbled"]
