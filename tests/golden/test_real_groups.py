"""Parity on groups of real rollouts: silver documents, query correctness and advantages, from text to numbers.

The texts are evaluation traces of Search-R1 models, repaired as the golden folder's README says. Nothing differs from
the reference here, except that equal rewards give exactly 0 in groups that it marks as rounding sensitive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from calibadv.advantage import TrajectoryEvidence, TurnEvidence, calibrate, query_correctness, silver_documents
from calibadv.advantage.silver import CorrectnessVariant

pytestmark = pytest.mark.golden

Record = dict[str, Any]
Prepared = list[tuple[Record, list[TrajectoryEvidence]]]
MARKER = re.compile(r"Doc \d+\(Title:")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def repaired(pieces: list[int | list[int]], response: str, literals: dict[str, str]) -> str:
    return "".join(literals[str(p)] if isinstance(p, int) else response[p[0] : p[1]] for p in pieces)


def turns_of(text: str) -> Iterator[TurnEvidence]:
    """Thinking and documents of each search turn, then the answer turn; for texts of valid format."""
    thinking = re.findall(r"<think>(.*?)</think>", text, re.DOTALL)
    observations = re.findall(r"<information>(.*?)</information>", text, re.DOTALL)
    assert len(thinking) == len(observations) + 1
    for thought, body in zip(thinking, [*observations, ""], strict=True):
        pieces = (piece.strip() for piece in MARKER.split(body))
        yield TurnEvidence(thought, tuple(digest("(Title:" + piece) for piece in pieces if piece))


@pytest.fixture(scope="module")
def groups(golden: Callable[[str], Any]) -> Prepared:
    """Each group with what its trajectories thought and retrieved."""
    literals = golden("real_prompts.json")["pieces_literals"]
    responses = {r["trace_id"]: r["response"] for r in golden("real_traces_text.jsonl.gz")}
    prepared = []
    for group in golden("real_groups.jsonl.gz"):
        evidence = []
        for rollout in group["rollouts"]:
            text = repaired(rollout["pieces"], responses[rollout["trace_id"]], literals)
            assert digest(text) == rollout["repaired_sha"]
            turns = tuple(turns_of(text)) if rollout["valid"] else ()
            evidence.append(TrajectoryEvidence(turns=turns, score=rollout["reward"], format_valid=rollout["valid"]))
        prepared.append((group, evidence))
    return prepared


def test_silver_documents_equal_the_reference(groups: Prepared) -> None:
    for group, evidence in groups:
        assert silver_documents(evidence) == dict(group["silver"] or []), group["group_id"]


@pytest.mark.parametrize(("variant", "name"), [("share", "old"), ("max", "max"), ("mean", "mean")])
def test_query_correctness_equals_the_reference(groups: Prepared, variant: CorrectnessVariant, name: str) -> None:
    for group, evidence in groups:
        correctness_NK, _ = query_correctness(evidence, group_ids=["q"] * len(evidence), variant=variant)
        for row, rollout in zip(correctness_NK, group["rollouts"], strict=True):
            want = rollout["step_scores"][name]
            if want is None:
                assert np.isnan(row).all(), rollout["trace_id"]
            else:
                assert row[: len(want)].tolist() == pytest.approx(want, abs=1e-5), rollout["trace_id"]


@pytest.mark.parametrize("name", ["grpo", "soft", "calib_pos@1.0"])
def test_advantages_equal_the_reference_with_all_groups_in_one_shuffled_batch(
    groups: Prepared, name: str, settings_of: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    rows = [(g, r, e) for g, evidence in groups for r, e in zip(g["rollouts"], evidence, strict=True)]
    rows = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    group_ids = [group["group_id"] for group, _, _ in rows]
    correctness_NK, stats = query_correctness([evidence for _, _, evidence in rows], group_ids=group_ids)
    num_turns = max(correctness_NK.shape[1], *(len(r["segments"]) for _, r, _ in rows))
    num_tokens_NK = np.zeros((len(rows), num_turns), dtype=int)
    for n, (_, rollout, _) in enumerate(rows):
        for k, (start, end) in enumerate(rollout["segments"]):
            num_tokens_NK[n, k] = end - start
    got_NK, _ = calibrate(
        [rollout["reward"] for _, rollout, _ in rows],
        group_ids=group_ids,
        correctness_NK=np.pad(
            correctness_NK, ((0, 0), (0, num_turns - correctness_NK.shape[1])), constant_values=np.nan
        ),
        num_tokens_NK=num_tokens_NK,
        config=settings_of(name),
    )
    assert stats.groups_without_silver == sum(not group["silver"] for group, _ in groups)
    for got_K, (group, rollout, _) in zip(got_NK, rows, strict=True):
        equal = len({r["reward"] for r in group["rollouts"]}) == 1
        want = [0.0] * num_turns if group["rounding_sensitive"] and equal else rollout["advantages"][name]
        assert all(same_number(a, b) for a, b in zip(got_K, want, strict=False)), rollout["trace_id"]
