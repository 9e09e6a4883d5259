"""How a policy is evaluated: the [evaluation] section of a run."""

from __future__ import annotations

from typing import Annotated

from calibadv.config_class import NonNegativeFloat, PositiveInt, Remedy, config_class
from calibadv.errors import ConfigError


@config_class("evaluation")
class EvaluationConfig:
    """Evaluation on the questions of ``data.test``; everything else is as in [rollout]."""

    samples: PositiveInt = 1
    """Rollouts per question; every one counts."""
    temperature: NonNegativeFloat | None = None
    """Instead of ``rollout.temperature``; 0 is greedy."""
    limit: Annotated[PositiveInt | None, Remedy("leave it out for all questions")] = None
    """At most this many questions, drawn with ``data.seed``; not set: all of them."""

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.samples > 1:
            raise ConfigError(
                f"evaluation.samples must be 1 at temperature 0, got {self.samples}: greedy rollouts are all the same"
            )
