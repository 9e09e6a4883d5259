"""Presets of the lab: the size of the policy, and how it is trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

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
"""What makes room for RL to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
                f"policy.hidden_size must be a multiple of 2 * policy.num_heads (an even number), "
                f"got {self.hidden_size} and {self.num_heads}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig:
    """How the base policy is trained from scratch: first reading, then, for a short while, mistakes."""

    output_dir: str = "runs/lab-base"
    seed: int = 1
    shape: PolicyShape = field(default_factory=PolicyShape)
    steps: int = 4_000
    """Optimizer steps of the reading stage."""
    batch_tokens: int = 1200
    """Tokens of a batch, padding included."""
    lr: float = 1.5e-3
    warmup_steps: int = 60
    constant_until: float = 0.45
    """Part of the steps after which the rate falls linearly to `final_lr_share`."""
    final_lr_share: float = 0.03
    easy_until: float = 0.01
    """Part of the steps with easy drills only."""
    drills_start: float = 0.9
    drills_end: float = 0.3
    """Part of the samples that are reading drills, at the start and at the end."""
    drills_fall: tuple[float, float] = (0.35, 0.65)
    """Between these parts of the steps the share of the drills goes from start to end."""
    mistake_steps: int = 800
    """Optimizer steps of the stage with mistakes."""
    mistake_lr: float = 5e-4
    mistakes: Habits = CARELESS
    world_size: int = 240
    """Articles in each training world; worlds are used for `samples_per_world` samples, then thrown away."""
    samples_per_world: int = 300
    top_k: tuple[int, ...] = (2, 3)
    """Documents per search; each training world draws one of these."""
    max_searches: int = 4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_tokens", "warmup_steps", "samples_per_world", "max_searches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"pretrain.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("constant_until", "final_lr_share", "easy_until", "drills_start", "drills_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"pretrain.{name} must be between 0 and 1, got {getattr(self, name)}")
        if not self.top_k or min(self.top_k) < 1:
            raise ConfigError(f"pretrain.top_k must hold numbers >= 1, got {self.top_k}")
        if not self.lr > 0 or not self.mistake_lr > 0:
            raise ConfigError(f"pretrain.lr and pretrain.mistake_lr must be > 0, got {self.lr} and {self.mistake_lr}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPreset:
    """A named lab policy."""

    name: str
    description: str
    pretrain: PretrainConfig


PRESETS: dict[str, LabPreset] = {
    preset.name: preset
    for preset in (
        LabPreset(
            name="default",
            description="0.8 M parameters, trained from scratch on one core; its weights ship with the package",
            pretrain=PretrainConfig(),
        ),
        LabPreset(
            name="lab-large",
            description="20 M parameters for those with a GPU; no weights are shipped",
            pretrain=PretrainConfig(
                output_dir="runs/lab-large",
                shape=PolicyShape(hidden_size=512, num_layers=6, num_heads=8, ff_size=1536),
                steps=20_000,
                batch_tokens=16_000,
                lr=8e-4,
                warmup_steps=400,
                mistake_lr=1e-4,
            ),
        ),
    )
}
