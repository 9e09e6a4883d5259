"""Play some questions with the policy as it is: is there anything to learn from, and is the evidence to be found?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from calibadv.config import RunConfig
from calibadv.data.config import draw
from calibadv.doctor.check import Check, Level
from calibadv.doctor.check_memory import check_memory
from calibadv.doctor.memory import Lengths
from calibadv.evaluation.evidence import evidence_of, holds, padded, passage_words
from calibadv.retrieval.base import Retriever
from calibadv.rewards.reward import open_reward
from calibadv.rollout.batch import RolloutResult, rollout
from calibadv.trajectory import Question, Trajectory

NO_SIGNAL_BLOCKS, NO_SIGNAL_WARNS = 0.9, 0.6
"""Shares of groups without a signal."""
FEW_FORMATS, POOR_EVIDENCE = 0.2, 0.3


def check_probe(
    config: RunConfig,
    retriever: Retriever,
    *,
    questions: Sequence[Question],
    count: int,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Check]:
    """Roll out ``count`` training questions as the first batch would, and judge what came of it."""
    from calibadv.models.open_policy import open_policy
    from calibadv.models.sizes import read_shape
    from calibadv.training.credit import Outcome, assign_credit

    asked = draw(questions, limit=count, seed=config.training.seed)
    with open_policy(config.model, threads=config.training.threads) as opened:
        result = rollout(
            asked,
            num_rollouts=config.training.num_rollouts,
            policy=opened.policy,
            retriever=retriever,
            tokenizer=opened.tokenizer,
            config=config.rollout,
            seed=config.training.seed,
            progress=progress,
        )
    score = config.reward.score
    reward = open_reward(config.reward.function, score=score)
    outcomes = [
        Outcome.of(t, group_id=f"{t.question.dataset}/{t.question.id}", score=score, reward=reward)
        for t in result.trajectories
    ]
    credit = assign_credit(outcomes, config=config.active_calibration)
    rewards = [outcome.reward for outcome in outcomes]
    facts = {
        "questions": len(asked),
        "rollouts": len(outcomes),
        "reward_variance": float(np.var(rewards)),
        "groups_with_signal": 1.0 - float(credit.metrics["groups_without_signal"]),
        "retrieval_hit_rate": evidence_rate(result.trajectories),
        "seconds": result.seconds["total"],
        "tokens_per_second": result.counters["generated_tokens"] / max(result.seconds["generate"], 1e-9),
        **{
            name: credit.metrics[name]
            for name in ("reward", "f1", "em", "format_valid", "garbled", "answered", "searches", "turns", "tokens")
        },
    }
    lengths = measured_lengths(result)
    memory = check_memory(
        config,
        read_shape(config.model, lora=config.lora),
        prompt_tokens=lengths.prompt,
        measured=lengths,
        processes=processes,
    )
    return [*verdict(facts, failed=result.counters["failed"]), memory]


def evidence_rate(trajectories: Sequence[Trajectory]) -> float | None:
    """Share of the rollouts that searched in which a golden answer stands in a document they saw; yes and no aside."""
    found = [
        holds_answer(trajectory)
        for trajectory in trajectories
        if trajectory.search_turns and not evidence_of(trajectory.question).yes_no
    ]
    return sum(found) / len(found) if found else None


def holds_answer(trajectory: Trajectory) -> bool:
    """Whether a golden answer stands in a document that the trajectory saw, compared by whole words."""
    documents = {document.id: document for turn in trajectory.turns for document in turn.documents}
    wanted = evidence_of(trajectory.question).answers
    return any(holds(padded(passage_words(document)), wanted) for document in documents.values())


def measured_lengths(result: RolloutResult) -> Lengths:
    """Tokens of prompts, turns and observations: those of a long episode (nine in ten are shorter)."""
    turns = [len(turn.token_ids) for t in result.trajectories for turn in t.turns]
    seen = [len(turn.observation_token_ids) for t in result.trajectories for turn in t.turns if turn.observation]
    return Lengths(
        prompt=max(len(t.prompt_token_ids) for t in result.trajectories),
        turn=int(np.quantile(turns, 0.9)) if turns else 0,
        observation=int(np.quantile(seen, 0.9)) if seen else 0,
    )


def verdict(facts: dict[str, Any], *, failed: int = 0) -> list[Check]:
    """In plain words, whether this policy can be trained by reinforcement alone."""
    return [signal_check(facts, failed=failed), format_check(facts), evidence_check(facts)]


def signal_check(facts: dict[str, Any], *, failed: int) -> Check:
    """Groups in which every rollout earns the same teach nothing."""
    silent = 1.0 - facts["groups_with_signal"]
    level = Level.BLOCKER if silent >= NO_SIGNAL_BLOCKS else Level.WARNING if silent >= NO_SIGNAL_WARNS else Level.OK
    reward = facts["reward"] or 0.0
    if (facts["format_valid"] or 0.0) < FEW_FORMATS:
        remedy = "start from an SFT checkpoint (calibadv sft)"
    elif reward > 0.5:
        remedy = "the questions are too easy for this policy: take harder ones"
    else:
        remedy = (
            "raise training.num_rollouts or rollout.temperature, take easier questions, or start from an SFT checkpoint"
        )
    return Check(
        name="signal",
        level=level,
        summary=f"{silent:.0%} of groups carry no signal ({facts['questions']} questions x "
        f"{facts['rollouts'] // facts['questions']} rollouts: reward {reward:.3f}, variance "
        f"{facts['reward_variance']:.4f}" + (f"; {failed} rollouts failed" if failed else "") + ")",
        remedy=remedy,
        facts=facts,
    )


def format_check(facts: dict[str, Any]) -> Check:
    """A rollout without valid format earns nothing, whatever it answers."""
    share = facts["format_valid"] or 0.0
    level = Level.OK if share >= FEW_FORMATS else Level.WARNING
    return Check(
        name="format",
        level=level,
        summary=f"{share:.0%} of rollouts have a valid format, {facts['answered'] or 0.0:.0%} answer, "
        f"{facts['searches'] or 0.0:.1f} searches and {facts['tokens'] or 0.0:.0f} tokens each",
        remedy="teach the tags first: calibadv sft",
        facts={name: facts[name] for name in ("format_valid", "answered", "searches", "turns", "tokens")},
    )


def evidence_check(facts: dict[str, Any]) -> Check:
    """A policy cannot read what the retriever does not find."""
    rate = facts["retrieval_hit_rate"]
    if rate is None:
        return Check(
            name="evidence",
            level=Level.WARNING,
            summary="no rollout searched, so nothing is known about what the retriever finds",
            remedy="teach the policy to search first: calibadv sft",
        )
    level = Level.OK if rate >= POOR_EVIDENCE else Level.WARNING
    return Check(
        name="evidence",
        level=level,
        summary=f"in {rate:.0%} of the rollouts that searched, a golden answer stands in a retrieved document",
        remedy="the policy asks badly or the corpus lacks the answers: raise rollout.top_k, re-rank, or audit the "
        "corpus",
        facts={"retrieval_hit_rate": rate},
    )
