"""Whether the episodes that the settings allow fit into the model's context."""

from __future__ import annotations

from calibadv.config import RunConfig
from calibadv.doctor.check import Check, Level
from calibadv.doctor.memory import longest_lengths, typical_lengths

SHORT_TURN = 50
"""Tokens of a turn that only searches, or only answers."""


def check_context(config: RunConfig, *, max_context: int | None, prompt_tokens: int) -> list[Check]:
    """The longest episode, and the shortest one with a search; nothing to say without a limit."""
    rollout = config.rollout
    limit = min((size for size in (max_context, rollout.max_context_tokens) if size), default=None)
    if limit is None:
        return []
    longest = longest_lengths(rollout, prompt=prompt_tokens).whole(searches=rollout.max_searches, limit=None)
    least = prompt_tokens + typical_lengths(rollout, prompt=prompt_tokens).observation + 2 * SHORT_TURN
    level, remedy = Level.OK, ""
    if least > limit:
        level = Level.BLOCKER
        remedy = "not even one search fits: lower rollout.max_observation_tokens, or take another model"
    elif longest > limit:
        level = Level.WARNING
        remedy = (
            "long episodes will end early (stop reason context_length); lower rollout.max_searches, "
            "rollout.max_turn_tokens or rollout.max_observation_tokens"
        )
    return [
        Check(
            name="context",
            level=level,
            summary=f"the longest episode that the settings allow has {longest:,} tokens; the context holds {limit:,}",
            remedy=remedy,
            facts={"longest": longest, "limit": limit, "longest_prompt": prompt_tokens},
        )
    ]
