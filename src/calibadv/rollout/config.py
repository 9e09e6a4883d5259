"""Settings of a rollout, with the paper's values as defaults where it has them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from calibadv.errors import ConfigError

ON_INVALID = ("stop", "retry")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How episodes are played.

    >>> RolloutConfig(top_k=0)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: rollout.top_k must be >= 1, got 0
    """

    prompt: str = "search"
    """Name of the prompt template (`calibadv.dialogue.prompt.PROMPTS`)."""
    think_prefill: bool = True
    """The prompt and every observation end with the opening think tag, so that the policy never samples it."""
    max_searches: int = 4
    """Searches per episode; then one last turn follows in which a search is no longer carried out."""
    top_k: int = 3
    """Documents per search."""
    on_invalid: str = "stop"
    """"stop": an action that is neither search nor answer ends the episode. "retry": it earns an explanatory message
    and counts as a turn.
    """
    max_turn_tokens: int = 1024
    """Tokens the policy may write in one turn."""
    max_observation_tokens: int = 2048
    """Longest observation in tokens; documents are shortened, tags never."""
    max_context_tokens: int | None = None
    """Longest context of an episode in tokens; None: what the policy says it can hold, if it says so."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    concurrency: int | None = None
    """Episodes alive at once (generating or searching); None: as many as the policy has room for."""
    deadline_s: float | None = None
    """Wall-clock seconds an episode may take; None: no limit. With one, runs are not reproducible to the bit."""
    search_window: int = 1
    """Ticks during which queries are collected before they go to the retriever in one call (>= 1)."""
    search_overlap: int = 2
    """Ticks of generation during which a search runs; then its result is taken, waiting for it if need be."""
    search_threads: int = 1
    """Calls of the retriever in flight at once. More than 1 is for retrievers that may be called from several threads,
    such as a server over HTTP."""
    search_retries: int = 3
    """Further attempts after a search failed."""
    retry_wait_s: float = 0.5
    """Seconds before the first further attempt; doubles each time, with jitter."""
    search_timeout_s: float | None = 60.0
    """Seconds that one call of the retriever may take before it counts as failed; None: no limit."""

    def __post_init__(self) -> None:
        for name in ("top_k", "max_turn_tokens", "max_observation_tokens", "search_window", "search_threads"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_searches", "temperature", "search_overlap", "search_retries", "retry_wait_s"):
            _at_least(name, getattr(self, name), 0)
        for name in ("max_context_tokens", "concurrency"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        if math.isinf(self.temperature):
            raise ConfigError(f"rollout.temperature must be finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"rollout.top_p must be in (0, 1], got {self.top_p}")
        for name in ("deadline_s", "search_timeout_s"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"rollout.{name} must be > 0 or none, got {seconds}")
        if self.on_invalid not in ON_INVALID:
            raise ConfigError(f'rollout.on_invalid must be "stop" or "retry", got {self.on_invalid!r}')


def _at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise ConfigError(f"rollout.{name} must be >= {least}, got {value}")
