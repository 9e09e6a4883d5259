"""Settings of a rollout, with the paper's values as defaults where it has them."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from calibadv.config_class import (
    Count,
    MayNameFile,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    config_class,
)


@config_class("rollout")
class RolloutConfig:
    """How episodes are played.

    >>> RolloutConfig(top_k=0)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: rollout.top_k must be >= 1, got 0
    """

    prompt: Annotated[str, MayNameFile()] = "search"
    """Wording of the user message: "search" explains the tags, "question" is the question alone, and
    "file:PATH" is a text file of yours that holds ``{question}`` once."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further values for the tokenizer's chat template, such as ``{enable_thinking = true}`` for Qwen3."""
    think_prefill: bool = True
    """The prompt and every observation end with the opening think tag, so that the policy never samples it."""
    max_searches: Count = 4
    """Searches per episode; then one last turn follows in which a search is no longer carried out."""
    top_k: PositiveInt = 3
    """Documents per search."""
    on_invalid: Literal["stop", "retry"] = "stop"
    """"stop": an action that is neither search nor answer ends the episode. "retry": it earns an explanatory message
    and counts as a turn.
    """
    max_turn_tokens: PositiveInt = 1024
    """Tokens the policy may write in one turn."""
    max_observation_tokens: PositiveInt = 2048
    """Longest observation in tokens; documents are shortened, tags never."""
    max_context_tokens: PositiveInt | None = None
    """Longest context of an episode in tokens; None: what the policy says it can hold, if it says so."""
    temperature: NonNegativeFloat = 1.0
    """0 is greedy."""
    top_p: PositiveFraction = 1.0
    """Tokens are drawn from the most likely ones that together have this probability; 1 keeps all. The published runs
    are trained with 0.95."""
    concurrency: PositiveInt | None = None
    """Episodes alive at once (generating or searching); None: as many as the policy has room for."""
    deadline_s: PositiveFloat | None = None
    """Wall-clock seconds an episode may take; None: no limit. With one, runs are not reproducible to the bit."""
    search_window: PositiveInt = 1
    """Ticks during which queries are collected before they go to the retriever in one call."""
    search_overlap: Count = 2
    """Ticks of generation during which a search runs; then its result is taken, waiting for it if need be."""
    search_threads: PositiveInt = 1
    """Calls of the retriever in flight at once. More than 1 is for retrievers that may be called from several threads,
    such as a server over HTTP."""
    search_retries: Count = 20
    """Further attempts after a search failed, with exponential backoff and jitter; at most 3 of them after a failure
    that does not say that it is transient."""
    search_timeout_s: PositiveFloat | None = 300.0
    """Seconds for a search, all attempts included (one that is not the last may take half of what is left); None: no
    limit. The default outlasts the restart of a server."""
