"""The arms of a lab experiment: an algorithm with changed settings, written ``calibadv:lambda=0.5``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibadv.errors import ConfigError

ALGORITHMS = ("grpo", "calibadv")

SHORT_NAMES = {
    "lambda": "calibration.rebalance_coef",
    "soft_penalty": "calibration.soft_penalty",
    "rebalance": "calibration.rebalance",
    "correctness": "calibration.correctness",
    "estimator": "calibration.estimator",
    "lr": "training.learning_rate",
    "loss": "training.loss_type",
    "prefill": "rollout.think_prefill",
}
"""What may be written for a setting of the run; any ``section.key`` works as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One setting of an experiment."""

    name: str
    """As it was written."""
    overrides: tuple[str, ...]
    """``section.key=value`` for `calibadv.config.RunConfig`."""

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Read ``algorithm[:key=value[:key=value ...]]``.

        >>> Arm.parse("calibadv:lambda=0.5").overrides
        ('algorithm.name=calibadv', 'calibration.rebalance_coef=0.5')
        """
        algorithm, *settings = text.strip().split(":")
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"--arms: {text!r} must begin with one of {', '.join(ALGORITHMS)}")
        overrides = [f"algorithm.name={algorithm}"]
        for setting in settings:
            key, equals, value = setting.partition("=")
            key = SHORT_NAMES.get(key, key)
            if not equals or not value or "." not in key:
                raise ConfigError(
                    f"--arms: {setting!r} in {text!r} is not key=value; keys: {', '.join(SHORT_NAMES)}, section.key"
                )
            if algorithm == "grpo" and key.startswith("calibration."):
                raise ConfigError(
                    f"--arms: {text!r} sets {key}, which plain GRPO does not use: write calibadv:{setting}"
                )
            overrides.append(f"{key}={value}")
        return cls(name=text.strip(), overrides=tuple(overrides))

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return "".join(char if char.isalnum() or char in ".=-" else "-" for char in self.name)


def parse_arms(text: str) -> tuple[Arm, ...]:
    """Comma-separated arms, each different.

    >>> [arm.name for arm in parse_arms("grpo, calibadv")]
    ['grpo', 'calibadv']
    """
    arms: Sequence[Arm] = [Arm.parse(part) for part in text.split(",") if part.strip()]
    names = [arm.name for arm in arms]
    if not arms:
        raise ConfigError("--arms is empty; name at least one, such as grpo,calibadv")
    if len(set(names)) < len(names):
        raise ConfigError(f"--arms names an arm twice: {text}")
    return tuple(arms)
