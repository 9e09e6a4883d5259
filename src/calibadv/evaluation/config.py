"""How a policy is evaluated: the [evaluation] section of a run."""

from __future__ import annotations

from dataclasses import dataclass

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Evaluation on the questions of ``data.test``; everything else is as in [rollout]."""

    samples: int = 1
    """Rollouts per question; every one counts."""
    temperature: float | None = None
    """Instead of ``rollout.temperature``; 0 is greedy."""
    limit: int | None = None
    """At most this many questions, drawn with ``data.seed``; not set: all of them."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"evaluation.samples must be >= 1, got {self.samples}")
        if self.temperature is not None and not self.temperature >= 0:
            raise ConfigError(f"evaluation.temperature must be >= 0 (0 is greedy), got {self.temperature}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"evaluation.limit must be >= 1, got {self.limit}; leave it out for all questions")
        if self.temperature == 0 and self.samples > 1:
            raise ConfigError(
                f"evaluation.samples must be 1 at temperature 0, got {self.samples}: greedy rollouts are all the same"
            )
