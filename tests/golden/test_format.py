"""Parity of the format verdict and of the extracted answer, on texts imported with `Trajectory.from_text`.

Every record agrees exactly in verdict, answer and scores, except for the kinds in `DIFFERENCES`. There this package
differs from the published code on purpose: the verdict comes from what the model wrote, and the answer is the one of
its last turn, where the first complete tag pair decides. The table is exact: a kind in it must come out as it says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from calibadv.rewards.format import format_problem, is_well_formed
from calibadv.rewards.outcome import outcome_reward, score_trajectory
from calibadv.trajectory import Question, Trajectory

pytestmark = pytest.mark.golden

MARKERS = ("<|im_start|>assistant", "<|start_header_id|>assistant<|end_header_id|>")
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
SENTENCE = "My previous action is invalid."


class Difference(NamedTuple):
    reason: str
    valid: bool | None = None
    """Our verdict; None: the reference's."""
    answer: str | None = None
    """Where our answer comes from: "last" or "first" pair of the last turn, "no answer", or "unless lost": the
    reference's, or none if the broken block swallowed the last turn. None: the reference's."""


DOCUMENT = "a document has no say in the verdict"
MARKER = "a response starts where the prompt ended, not at the first marker in the text"
END = "an end marker after the answer is no text of the model"
SPECIAL = "a special token between tags is text, and is never deleted"
SENTENCE_REASON = "a sentence is just a sentence"
OWN_ANSWER = "the model's own answer counts, however many pairs the prompt holds"
NO_ANSWER = "only the model's own answer counts"
FIRST_PAIR = "the first complete tag pair of a turn decides"
UNREADABLE = "an information block that is not whole, or not where it belongs, cannot be told from model text"

DIFFERENCES = {
    "two assistant turns": Difference(MARKER, valid=True),
    "marker word in question": Difference(MARKER, valid=True),
    "im end after answer": Difference(END, valid=True),
    "eot after answer": Difference(END, valid=True),
    "endoftext between tags": Difference(SPECIAL, valid=False),
    "endoftext splits a tag": Difference(SPECIAL, valid=False),
    "document has lone search tag": Difference(DOCUMENT, valid=True),
    "document has balanced answer": Difference(DOCUMENT, valid=True),
    "document has balanced think": Difference(DOCUMENT, valid=True),
    "document has balanced information": Difference(DOCUMENT, valid=True),
    "document has information close": Difference(DOCUMENT, valid=True),
    "document has invalid action sentence": Difference(SENTENCE_REASON, valid=True),
    "invalid sentence in think": Difference(SENTENCE_REASON, valid=True),
    "document has balanced answer and no final": Difference(NO_ANSWER, answer="no answer"),
    "prompt with three answer examples no answer generated": Difference(NO_ANSWER, answer="no answer"),
    "question has answer tags": Difference(NO_ANSWER, answer="no answer"),
    "invalid action message at end": Difference(NO_ANSWER, answer="no answer"),
    "prompt without answer example": Difference(OWN_ANSWER, answer="last"),
    "prompt with one answer example": Difference(OWN_ANSWER, answer="last"),
    "answer before search": Difference("the episode went on, and its last turn holds no answer", answer="no answer"),
    "two answers in a row": Difference(FIRST_PAIR, answer="first"),
    "two think answer pairs": Difference(FIRST_PAIR, answer="first"),
    "answer inside think": Difference(FIRST_PAIR, answer="first"),
    "missing information open": Difference(UNREADABLE, answer="unless lost"),
    "missing information close": Difference(UNREADABLE, answer="unless lost"),
    "text between search and information": Difference(UNREADABLE, answer="unless lost"),
}


def read(record: dict[str, Any]) -> Trajectory:
    """The response begins after the last generation prompt; a text without one is all response."""
    text, target = record["text"], record["target"]
    start = max((text.rfind(m) + len(m) for m in MARKERS if m in text), default=0)
    golden_answers = (target,) if isinstance(target, str) else tuple(target)
    question = Question(id=record["id"], text="unknown", golden_answers=golden_answers)
    return Trajectory.from_text(text[:start], text[start:], question)


def expected_answer(record: dict[str, Any], rule: str | None, got: str | None) -> str | None:
    last_turn = record["text"].rpartition("</information>")[2]
    pairs = [answer.strip() for answer in ANSWER.findall(last_turn)]
    if rule in ("first", "last"):
        return str(pairs[0 if rule == "first" else -1])
    if rule == "no answer" or (rule == "unless lost" and got is None):
        return None
    want: str | None = record["extracted_answer"]
    return want


def test_verdict_answer_and_scores_agree_but_for_the_table(
    golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    wrong = []
    for record in golden("format.jsonl"):
        trajectory = read(record)
        difference = DIFFERENCES.get(record["kind"], Difference(""))
        valid = record["valid"] if difference.valid is None else difference.valid
        answer = expected_answer(record, difference.answer, trajectory.answer)
        if is_well_formed(trajectory) != valid:
            wrong.append(f"{record['id']}: verdict should be {valid}, {format_problem(trajectory)}")
        if trajectory.answer != answer:
            wrong.append(f"{record['id']}: answer should be {answer!r}, got {trajectory.answer!r}")
        if answer == record["extracted_answer"]:
            scores = score_trajectory(trajectory)
            wrong += [
                f"{record['id']}: {name} should be {want}, got {scores[name]}"
                for name, want in record["answer_score"].items()
                if not same_number(scores[name], want)
            ]
    assert not wrong


def test_a_verdict_that_differs_is_a_quirk_of_the_reference(golden: Callable[[str], Any]) -> None:
    by_kind = {kind for kind, difference in DIFFERENCES.items() if difference.valid is not None}
    assert all(record["quirk"] for record in golden("format.jsonl") if record["kind"] in by_kind)


def test_verdict_and_reward_agree_with_and_without_the_think_prefill(
    golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    """Where we differ: a tag inside a document, named by the group's quirk, does not make the rollout invalid."""
    wrong: list[tuple[Any, ...]] = []
    for number, group in enumerate(golden("correctness_vectors.json.gz")["groups"]):
        question = Question(id=str(number), text=group["question"], golden_answers=tuple(group["golden_answers"]))
        for rollout in group["rollouts"]:
            trajectory = Trajectory.from_text(
                group["prompt"], rollout["response"], question, think_prefill=rollout["think_opened_in_prompt"]
            )
            forged = rollout["made_defect"] == "tag inside a document"
            if forged:
                assert any("tags inside a document" in quirk for quirk in group["quirks"])
            reward = outcome_reward(trajectory)
            if is_well_formed(trajectory) != (rollout["format_valid"] or forged):
                wrong.append((number, "verdict", format_problem(trajectory)))
            if not forged and not same_number(reward, rollout["answer_reward"]):
                wrong.append((number, "reward", reward, rollout["answer_reward"]))
    assert not wrong


def test_verdict_and_reward_agree_on_repaired_real_rollouts(
    golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    """Where we differ: the model's thinking may hold the sentence about an invalid action."""
    traces = {trace["trace_id"]: trace["response"] for trace in golden("real_traces_text.jsonl.gz")}
    prompts = golden("real_prompts.json")
    wrong: list[tuple[Any, ...]] = []
    valid = 0
    for group in golden("real_groups.jsonl.gz"):
        question = Question(id=group["group_id"], text="unknown", golden_answers=tuple(group["golden_answers"]))
        for rollout in group["rollouts"]:
            source = traces[rollout["trace_id"]]
            response = "".join(
                prompts["pieces_literals"][str(piece)] if isinstance(piece, int) else source[slice(*piece)]
                for piece in rollout["pieces"]
            )
            trajectory = Trajectory.from_text(prompts["prompt_template"], response, question)
            valid += is_well_formed(trajectory)
            if SENTENCE in "".join(turn.thinking for turn in trajectory.turns):
                assert not rollout["valid"]
                continue
            if is_well_formed(trajectory) != rollout["valid"]:
                wrong.append((rollout["trace_id"], format_problem(trajectory), rollout["reason"]))
            if not same_number(outcome_reward(trajectory), rollout["reward"]):
                wrong.append((rollout["trace_id"], outcome_reward(trajectory), rollout["reward"]))
    assert not wrong
    assert valid > 0
