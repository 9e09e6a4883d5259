"""Presets of the lab: the size of the policy, and how it is trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Annotated

from annotated_types import MinLen

from calibadv.config_class import Fraction, PositiveFloat, PositiveInt, config_class
from calibadv.errors import ConfigError
from calibadv.lab.base_policy.demonstrations import Habits

CLEAN = Habits()
"""No mistakes: with them from the start, the policy never learns to read."""
CARELESS = Habits(
    sentences=0.9,
    rambling=0.30,
    early_stop=0.20,
    wrong_relation=0.15,
    wrong_document=0.10,
    garbled=0.03,
    format_slip=0.12,
    repeat=0.06,
    skipped_search=0.03,
)
"""Leaves RL something to learn."""


@config_class()
class PolicyShape:
    """A Llama."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    ff_size: int = 256
    """Inner size of the feed-forward blocks."""

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads) or self.num_heads % 2:
            raise ConfigError(
                f"hidden_size must be a multiple of 2 * num_heads (an even number), "
                f"got {self.hidden_size} and {self.num_heads}"
            )


@config_class()
class PretrainConfig:
    """How the base policy is trained from scratch: first reading, then, for a short while, mistakes."""

    output_dir: str = "runs/lab-base"
    seed: int = 1
    shape: PolicyShape = field(default_factory=PolicyShape)
    steps: PositiveInt = 4_000
    """Optimizer steps of the reading stage."""
    batch_tokens: PositiveInt = 1200
    """Tokens of a batch, padding included."""
    lr: PositiveFloat = 1.5e-3
    warmup_steps: PositiveInt = 60
    constant_until: Fraction = 0.45
    """Part of the steps after which the rate falls linearly to `final_lr_share`."""
    final_lr_share: Fraction = 0.03
    easy_until: Fraction = 0.01
    """Part of the steps with easy drills only."""
    drills_start: Fraction = 0.9
    drills_end: Fraction = 0.3
    """Part of the samples that are reading drills, at the start and at the end."""
    drills_fall: tuple[float, float] = (0.35, 0.65)
    """Between these parts of the steps the share of the drills goes from start to end."""
    mistake_steps: int = 800
    """Optimizer steps of the stage with mistakes."""
    mistake_lr: PositiveFloat = 5e-4
    mistakes: Habits = CARELESS
    world_size: int = 240
    """Articles in each training world; worlds are used for `samples_per_world` samples, then discarded."""
    samples_per_world: PositiveInt = 300
    top_k: Annotated[tuple[PositiveInt, ...], MinLen(1)] = (2, 3)
    """Documents per search; each training world draws one of these."""
    max_searches: PositiveInt = 4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


def large() -> PretrainConfig:
    """20 M parameters for those with a GPU; no weights are shipped."""
    return PretrainConfig(
        output_dir="runs/lab-large",
        shape=PolicyShape(hidden_size=512, num_layers=6, num_heads=8, ff_size=1536),
        steps=20_000,
        batch_tokens=16_000,
        lr=8e-4,
        warmup_steps=400,
        mistake_lr=1e-4,
    )


PRESETS: dict[str, Callable[[], PretrainConfig]] = {"default": PretrainConfig, "lab-large": large}
"""Named base policies. "default" has 0.8 M parameters, trained from scratch on one core; its weights are shipped."""
