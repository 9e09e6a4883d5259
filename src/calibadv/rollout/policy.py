"""The policy protocol: generation requests in, completions out, as they finish.

A policy is a loop over *ticks* (one decoding step of all its running rows). Every tick it takes new requests, advances,
and yields what has finished. The engine hands out requests and receives completions in the same thread, so a run is
deterministic, while searches run in the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    max_tokens: int = 1024
    """Per turn."""
    stop: tuple[str, ...] = ("</search>", "</answer>")
    """The turn ends with the token that completes one of these; they are kept in the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One turn to generate."""

    episode: int
    """Requests of one episode extend each other: ``token_ids`` starts with the earlier context and what was sampled."""
    token_ids: Sequence[int]
    """The whole context so far."""
    params: SamplingParams
    seed: int
    """Seeds this turn's draws, whatever else is in the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generated turn."""

    episode: int
    token_ids: tuple[int, ...]
    """Sampled ids, the stop tag or the end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each id under the model at temperature 1, as one full forward would give."""
    text: str
    """``token_ids`` decoded without special end markers."""
    finish: str
    """"stop" (a stop string), "eos" or "length"."""


class RequestQueue(Protocol):
    """Where a policy gets its work; the engine's side of `Policy.generate`."""

    def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
        """At most ``room`` new requests. Called exactly once per tick.

        With ``idle`` (nothing is running) it waits for searches in flight; an empty list then means that all is done.
        """
        ...

    def ended(self) -> list[int]:
        """Episodes that ended since the last call: their caches can go."""
        ...


class Policy(Protocol):
    """Anything that writes turns."""

    def generate(self, requests: RequestQueue) -> Iterator[Completion]: ...
