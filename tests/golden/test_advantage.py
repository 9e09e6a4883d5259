"""Parity of advantages: every variant of the published code, over random and hand-made batches.

Where we differ on purpose:

==========================  ==========================================================  ==============================
record                      the reference                                               ours
==========================  ==========================================================  ==============================
rounding-sensitive groups   float32 rounding of mean and deviation decides              exact arithmetic; equal
                                                                                        rewards give 0
``plainfn_*``, a group      its second copy of the rebalance leaves such answer turns   0, as its first copy has it:
with one side missing       as they are (divided by R on the positive side)             one rebalance, not two
outputs that are null       an exception: token 0 masked, or a rollout without tokens   exact arithmetic
                            in the second copy
``reference_raises`` with   an exception in a log line; the recorded output is what     equal to the recorded output
outputs                     it would be without that line
==========================  ==========================================================  ==============================
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from calibadv.advantage import CalibrationConfig, calibrate, spread

pytestmark = pytest.mark.golden

Record = dict[str, Any]
VARIANTS = (
    "grpo",
    "soft",
    "soft_upper",
    "calib_upper_pos@1.0",
    *(f"calib_{side}@{ratio}" for side in ("pos", "neg") for ratio in ("1.0", "1/0.5", "1/0.75", "1/1.5", "1/2.0")),
    "rebal_pos@1.0",
    "rebal_pos@1/2.0",
    "rebal_neg@1.0",
    "plainfn_pos@1.0",
    "plainfn_neg@1.0",
)


def arrays_of(batch: Record, *, with_scores: bool) -> Record:
    rollouts = batch["rollouts"]
    num_turns = max((len(r["segments"]) for r in rollouts), default=0)
    starts, num_tokens = np.zeros((2, len(rollouts), num_turns), dtype=int)
    correctness = np.full((len(rollouts), num_turns), np.nan)
    for n, rollout in enumerate(rollouts):
        for k, (start, end) in enumerate(rollout["segments"]):
            starts[n, k], num_tokens[n, k] = start, end - start
        scores = (rollout["step_scores"] if with_scores else None) or []
        correctness[n, : len(scores)] = scores
    return {
        "rewards": [r["reward"] for r in rollouts],
        "groups": [r["group"] for r in rollouts],
        "starts": starts,
        "num_tokens": num_tokens,
        "correctness": correctness,
    }


def exact(rollouts: list[Record], config: CalibrationConfig) -> list[list[float]]:
    """The definition, for one group, rollout by rollout and with fractions."""
    rewards = [Fraction(r["reward"]) for r in rollouts]
    mean = sum(rewards) / len(rewards) if len(rewards) > 1 else Fraction(0)
    deviation = statistics.stdev(rewards) if len(rewards) > 1 else 1.0
    advantages = [float(r - mean) / (float(deviation) + 1e-6) for r in rewards]
    turns = [[a] * len(r["segments"]) for a, r in zip(advantages, rollouts, strict=True)]
    for a, rollout, row in zip(advantages, rollouts, turns, strict=True):
        for k, score in enumerate(rollout["step_scores"] or []):
            if a < 0 and config.soft_penalty == "shrink":
                row[k] = a * (1 - score)
            elif a < 0 and config.soft_penalty == "interpolate":
                row[k] = a + (max(0.0, *advantages) - a) * score
    if config.rebalance == "none":
        return turns
    answers = [
        (row, (r["segments"][-1][1] - r["segments"][-1][0])) for row, r in zip(turns, rollouts, strict=True) if row
    ]
    positive = sum(row[-1] * tokens for row, tokens in answers if row[-1] > 0)
    negative = -sum(row[-1] * tokens for row, tokens in answers if row[-1] < 0)
    for row, _ in answers:
        if not positive or not negative:
            row[-1] = 0.0
        elif row[-1] > 0 and config.rebalance == "positive":
            row[-1] *= config.rebalance_coef * negative / positive
        elif row[-1] < 0 and config.rebalance == "negative":
            row[-1] *= positive / (config.rebalance_coef * negative)
    return turns


def group_is_one_sided(batch: Record, group: int) -> bool:
    plain = [
        row[-1]
        for r, row in zip(batch["rollouts"], batch["outputs"]["grpo"], strict=True)
        if row and r["group"] == group
    ]
    return not (any(a > 0 for a in plain) and any(a < 0 for a in plain))


@pytest.mark.parametrize("variant", VARIANTS)
def test_advantages_of_a_variant_equal_the_reference(
    variant: str,
    golden: Callable[[str], Any],
    same_number: Callable[[float, float], bool],
    settings_of: Callable[[str], CalibrationConfig],
) -> None:
    config = settings_of(variant)
    with_scores = not re.match("rebal|plainfn", variant)
    wrong = []
    for batch in golden("advantage_vectors.json.gz")["batches"]:
        given = arrays_of(batch, with_scores=with_scores)
        got, _ = calibrate(
            given["rewards"],
            group_ids=given["groups"],
            correctness_NK=given["correctness"],
            num_tokens_NK=given["num_tokens"],
            config=config,
        )
        for group in sorted(set(given["groups"])):
            members = [n for n, other in enumerate(given["groups"]) if other == group]
            rollouts = [{**batch["rollouts"][n]} for n in members]
            if not with_scores:
                rollouts = [{**r, "step_scores": None} for r in rollouts]
            output = batch["outputs"][variant]
            ours_is_exact = (
                output is None
                or group in batch["rounding_sensitive_groups"]
                or (variant.startswith("plainfn") and group_is_one_sided(batch, group))
            )
            want = exact(rollouts, config) if ours_is_exact else [output[n] for n in members]
            for n, values in zip(members, want, strict=True):
                if not all(same_number(a, b) for a, b in zip(got[n], values, strict=False)):
                    wrong.append((batch["batch_id"], n, got[n].tolist(), values))
    assert not wrong, f"{len(wrong)} trajectories differ, first: {wrong[0]}"


def test_the_listed_differences_are_the_only_ones(golden: Callable[[str], Any]) -> None:
    """The exact definition itself agrees with the reference wherever the table above does not say otherwise."""
    for batch in golden("advantage_vectors.json.gz")["batches"]:
        for group in {r["group"] for r in batch["rollouts"]} - set(batch["rounding_sensitive_groups"]):
            members = [n for n, r in enumerate(batch["rollouts"]) if r["group"] == group]
            output = batch["outputs"]["calib_pos@1.0"]
            if output is not None:
                values = exact([batch["rollouts"][n] for n in members], CalibrationConfig())
                for n, row in zip(members, values, strict=True):
                    assert row == pytest.approx(output[n], rel=1e-5, abs=1e-5)


def test_one_sided_groups_are_where_the_second_rebalance_of_the_reference_differs(golden: Callable[[str], Any]) -> None:
    for batch in golden("advantage_vectors.json.gz")["batches"]:
        first, second = batch["outputs"]["rebal_pos@1.0"], batch["outputs"]["plainfn_pos@1.0"]
        for n, rollout in enumerate(batch["rollouts"]):
            if first and second and first[n] and rollout["group"] not in batch["rounding_sensitive_groups"]:
                if group_is_one_sided(batch, rollout["group"]):
                    assert first[n][-1] == 0.0
                    assert second[n][-1] == batch["outputs"]["grpo"][n][-1]
                else:
                    assert first[n][-1] == pytest.approx(second[n][-1], rel=1e-5)


def test_spread_over_tokens_is_constant_in_a_segment_and_zero_elsewhere(golden: Callable[[str], Any]) -> None:
    for batch in golden("advantage_vectors.json.gz")["batches"]:
        given = arrays_of(batch, with_scores=True)
        turns, _ = calibrate(
            given["rewards"],
            group_ids=given["groups"],
            correctness_NK=given["correctness"],
            num_tokens_NK=given["num_tokens"],
        )
        tokens = spread(turns, starts_NK=given["starts"], num_tokens_NK=given["num_tokens"], num_columns=batch["T"])
        want = np.zeros((len(turns), batch["T"]), dtype=np.float32)
        for n, rollout in enumerate(batch["rollouts"]):
            for k, (start, end) in enumerate(rollout["segments"]):
                want[n, start:end] = turns[n, k]
        np.testing.assert_array_equal(tokens, want)


def test_equal_rewards_give_exactly_zero_where_the_reference_depends_on_rounding(golden: Callable[[str], Any]) -> None:
    for batch in golden("advantage_vectors.json.gz")["batches"]:
        given = arrays_of(batch, with_scores=True)
        got, _ = calibrate(
            given["rewards"],
            group_ids=given["groups"],
            correctness_NK=given["correctness"],
            num_tokens_NK=given["num_tokens"],
        )
        for group in batch["rounding_sensitive_groups"]:
            members = [n for n, other in enumerate(given["groups"]) if other == group]
            if len({given["rewards"][n] for n in members}) == 1:
                assert not got[members].any()
