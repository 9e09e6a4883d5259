"""A run from which nothing is learned stops: `NoSignalError`, and why and what helps in plain words."""

from __future__ import annotations

from typing import Any

from calibadv.errors import ConfigError


class NoSignalError(ConfigError):
    """Batch after batch no group held two different rewards, or no update could be made: nothing is learned."""


def no_signal_message(metrics: dict[str, Any]) -> str:
    """In plain words, why a batch teaches nothing and what helps."""
    share = metrics["format_valid"] or 0.0
    reward = metrics["reward"] or 0.0
    if metrics["reward"] is None:
        cause = "every rollout failed: its search found no answering retriever, or it ran out of time"
        remedy = "see to the retriever, or raise rollout.deadline_s"
    elif share == 0:
        cause = (
            "none of the rollouts has a valid format (think, search, information, ..., think, answer): this policy "
            "does not use the tags, so every reward is 0"
        )
        remedy = "start from a model that was taught the tags (calibadv sft), or change rollout.prompt"
    elif reward == 0:
        cause = f"{share:.0%} of the rollouts have a valid format, but no answer scores above 0"
        remedy = "start from a stronger model, ask easier questions, or check what the retriever finds"
    else:
        cause = f"in every group all rollouts earn the same reward (mean {reward:.2f})"
        remedy = "raise training.num_rollouts or rollout.temperature, or ask harder questions"
    return f"No signal in this batch: {cause}. All advantages are 0, so it teaches nothing; to learn, {remedy}."


def all_skipped_message(count: int) -> str:
    """In plain words, why the last ``count`` updates changed nothing and what helps."""
    return (
        f"the last {count} updates were all skipped because their gradients were not finite (NaN or infinity), so "
        "nothing was learned: lower training.learning_rate, bring calibration.rebalance_coef and the values of "
        "reward.function nearer to 1, or continue from an earlier checkpoint"
    )
