"""Parity of silver documents, query correctness, and the advantages that follow from them.

Each group is read twice. *As the reference reads it*: documents and thinking are what its patterns find in the rendered
text; then every number must agree, so the arithmetic is the same without exception. *As we read it*: documents by
identity and thinking as recorded per turn; then the groups below may differ, on purpose.

==================================  ==========================================  =====================================
quirk of the group                  the reference                               ours
==================================  ==========================================  =====================================
a document containing a document    splits it at the marker: two documents      one document
marker
text before the first document      takes it for a document, shared by all      no document
marker
a response starts with white space  glues a second opening tag on; the first    thinking without tags
                                    thinking begins with it, less similar
tags inside a document              judge the model's format by them            the verdict is `calibadv.rewards`'
                                                                                matter; here it is given
best trajectories without any       an exception (`reference_raises`)           no silver documents
document
==================================  ==========================================  =====================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from calibadv.advantage import (
    TrajectoryEvidence,
    TurnEvidence,
    calibrate,
    query_correctness,
    silver_documents,
    word_similarity,
)
from calibadv.advantage.silver import CorrectnessVariant

pytestmark = pytest.mark.golden

Record = dict[str, Any]
MARKER = re.compile(r"Doc \d+\(Title:")
VARIANTS: list[tuple[CorrectnessVariant, str]] = [("share", "old"), ("max", "max"), ("mean", "mean")]
QUIRKS_OF_READING = ("document marker", "starts with white space")
"""Quirks that change documents or thinking, and with them our numbers."""


def rendered(step: Record) -> str:
    """The body of the step's observation."""
    lines = (f"Doc {i}(Title: {d['title']}) {d['text']}" for i, d in enumerate(step["docs"], 1))
    return str(step.get("info", "\n".join(lines)))


def as_the_reference_reads(rollout: Record) -> TrajectoryEvidence:
    turns = []
    for k, step in enumerate(rollout["steps"]):
        # Text before the first marker is a document too, unless it is blank.
        pieces = (piece.strip() for piece in MARKER.split(rendered(step).strip()))
        glued = k == 0 and re.match(r"\s+<think>", rollout["response"])
        turns.append(TurnEvidence("<think>" * bool(glued) + step["think"], tuple("(Title:" + p for p in pieces if p)))
    return evidence(turns, rollout)


def as_we_read(rollout: Record) -> TrajectoryEvidence:
    turns = []
    for step in rollout["steps"]:
        documents = tuple(f"(Title:{d['title']}) {d['text']}".strip() for d in step["docs"])
        if not documents:
            documents = tuple("(Title:" + piece.strip() for piece in MARKER.split(rendered(step))[1:])
        turns.append(TurnEvidence(step["think"], documents))
    return evidence(turns, rollout)


def evidence(search_turns: list[TurnEvidence], rollout: Record) -> TrajectoryEvidence:
    answer_turn = TurnEvidence(rollout["final_think"] or "", ())
    return TrajectoryEvidence(
        turns=(*search_turns, answer_turn),
        score=rollout["answer_f1_before_format"],
        format_valid=rollout["format_valid"],
    )


def steps_given(correctness_K: Any, num_steps: int) -> list[float] | None:
    given = correctness_K[:num_steps]
    assert np.isnan(correctness_K[num_steps:]).all()
    return None if np.isnan(given).all() else given.tolist()


def differences(group: Record, evidence_N: list[TrajectoryEvidence]) -> list[str]:
    """What differs from the reference in a group."""
    found = []
    silver = silver_documents(evidence_N)
    if silver != dict(group["silver"] or []):
        found.append("silver")
    if "reference_raises" in group:
        return found  # It gives no scores then.
    if silver and max(silver.values()) != group["max_doc_count"]:
        found.append("max_doc_count")
    for variant, name in VARIANTS:
        correctness_NK, _ = query_correctness(evidence_N, group_ids=["q"] * len(evidence_N), variant=variant)
        for n, rollout in enumerate(group["rollouts"]):
            got = steps_given(correctness_NK[n], len(rollout["steps"]))
            want = (rollout["step_scores"] or {}).get(name)
            if (got is None) != (want is None) or (want is not None and got != pytest.approx(want, abs=1e-5)):
                found.append(f"{name} of rollout {n}: {got} instead of {want}")
    return found


def test_word_similarity_equals_the_reference(golden: Callable[[str], Any]) -> None:
    for a, b, want in golden("correctness_vectors.json.gz")["similarity_pairs"]:
        assert word_similarity(a, b) == pytest.approx(want, abs=1e-12)
        assert word_similarity(b, a) == pytest.approx(want, abs=1e-12)


def test_every_group_equals_the_reference_when_read_as_the_reference_reads_it(golden: Callable[[str], Any]) -> None:
    groups = golden("correctness_vectors.json.gz")["groups"]
    wrong = {g["group_id"]: differences(g, [as_the_reference_reads(r) for r in g["rollouts"]]) for g in groups}
    assert not {group: found for group, found in wrong.items() if found}


def test_groups_without_a_quirk_of_reading_equal_the_reference_as_we_read_them(golden: Callable[[str], Any]) -> None:
    groups = [
        g
        for g in golden("correctness_vectors.json.gz")["groups"]
        if not any(kind in quirk for quirk in g["quirks"] for kind in QUIRKS_OF_READING)
    ]
    wrong = {g["group_id"]: differences(g, [as_we_read(r) for r in g["rollouts"]]) for g in groups}
    assert groups
    assert not {group: found for group, found in wrong.items() if found}


def test_white_space_before_the_response_changes_nothing_but_similarity(golden: Callable[[str], Any]) -> None:
    for group in golden("correctness_vectors.json.gz")["groups"]:
        if all("starts with white space" in quirk for quirk in group["quirks"]):
            assert silver_documents([as_we_read(r) for r in group["rollouts"]]) == dict(group["silver"] or [])


def test_best_trajectories_without_documents_leave_the_group_without_silver(golden: Callable[[str], Any]) -> None:
    for group in golden("correctness_vectors.json.gz")["groups"]:
        if "reference_raises" in group and not group["silver"]:
            evidence_N = [as_we_read(r) for r in group["rollouts"]]
            correctness_NK, stats = query_correctness(evidence_N, group_ids=["q"] * len(evidence_N))
            assert stats.groups_without_silver == 1
            assert np.isnan(correctness_NK).all()


@pytest.mark.parametrize("name", ["grpo", "soft", "calib_pos@1.0"])
def test_advantages_that_follow_equal_the_reference(
    name: str,
    golden: Callable[[str], Any],
    same_number: Callable[[float, float], bool],
    settings_of: Callable[[str], Any],
) -> None:
    for group in golden("correctness_vectors.json.gz")["groups"]:
        if "reference_raises" in group:
            continue
        rollouts = group["rollouts"]
        correctness_NK, _ = query_correctness(
            [as_the_reference_reads(r) for r in rollouts], group_ids=["q"] * len(rollouts)
        )
        num_tokens_NK = np.zeros(correctness_NK.shape, dtype=int)
        for n, rollout in enumerate(rollouts):
            if rollout["format_valid"]:
                assert len(rollout["segments"]) == len(rollout["steps"]) + 1
            for k, (start, end) in enumerate(rollout["segments"]):
                num_tokens_NK[n, k] = end - start
        rewards = [r["answer_reward"] for r in rollouts]
        got, _ = calibrate(
            rewards,
            group_ids=["q"] * len(rollouts),
            correctness_NK=correctness_NK,
            num_tokens_NK=num_tokens_NK,
            config=settings_of(name),
        )
        if group["rounding_sensitive"] and len(set(rewards)) == 1:
            assert not got.any()  # The reference's value depends on rounding; equal rewards give 0.
            continue
        for n, rollout in enumerate(rollouts):
            want = rollout["advantages"][name]
            assert all(same_number(a, b) for a, b in zip(got[n], want, strict=False)), (group["group_id"], n)
