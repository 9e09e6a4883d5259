"""Settings of a lab: which arms are trained, how long, in which world; and the run config of each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from calibadv.config import RunConfig
from calibadv.config_class import PositiveInt, config_class
from calibadv.lab import load_policy
from calibadv.lab.arms import Arm, parse_arms

TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "steps": 80,
        "questions_per_batch": 12,
        "num_rollouts": 5,
        "mini_batches": 2,
        "epochs": 1,
        "learning_rate": 4e-4,
        "warmup_steps": 4,
    },
    "aggressive": {
        "steps": 360,
        "questions_per_batch": 12,
        "num_rollouts": 5,
        "mini_batches": 4,
        "epochs": 3,
        "learning_rate": 5e-4,
        "warmup_steps": 12,
    },
}
"""The [training] section by preset. "aggressive" makes twelve updates from every batch, most of them off-policy."""

DEFAULT_ARMS = {"default": "grpo,calibadv", "aggressive": "grpo,calibadv,calibadv:lambda=0.5,calibadv:lambda=0.25"}


@config_class()
class LabConfig:
    """What `calibadv.lab.compare.run_lab` does; one field per option of ``calibadv lab``."""

    preset: Literal["default", "aggressive"] = "default"
    """Settings of the runs: "default" or "aggressive"."""
    arms: str | None = None
    """Comma-separated arms, see `calibadv.lab.arms`; not set: the preset's."""
    steps: PositiveInt | None = None
    """Optimizer steps of each run; not set: the preset's."""
    seeds: PositiveInt = 1
    """Runs per arm, with training seeds 0, 1, ..."""
    out: Path | None = None
    """New folder for the results; not set: ``runs/lab``, where an older lab is moved aside."""
    model: str | None = None
    """Base policy; not set: the packaged one."""
    world_seed: int = 1001
    """The encyclopedia. The packaged policy has seen neither this nor any other fixed one."""
    world_size: int = 300
    """Its number of articles."""
    test_questions: PositiveInt = 300
    """Questions of the test split, each played once at temperature 1, before and after."""
    workers: PositiveInt | None = None
    """Runs at the same time; not set: one per CPU."""

    @property
    def parsed_arms(self) -> tuple[Arm, ...]:
        """The arms to train."""
        return parse_arms(DEFAULT_ARMS[self.preset] if self.arms is None else self.arms)


def arm_config(lab: LabConfig, arm: Arm, *, seed: int, world_dir: Path, folder: Path) -> RunConfig:
    """The configuration of one run: the preset, then the arm."""
    training = dict(TRAINING_PRESETS[lab.preset])
    updates = training["mini_batches"] * training["epochs"]
    if lab.steps is not None:
        training["steps"] = -(-lab.steps // updates) * updates
        training["warmup_steps"] = min(training["warmup_steps"], training["steps"])
    sections = {
        "model": {"path": str(lab.model or load_policy()), "device": "cpu"},
        "data": {
            "train": [str(world_dir / "questions.train.jsonl")],
            "test": [str(world_dir / "questions.test.jsonl")],
        },
        "retrieval": {"corpus": str(world_dir / "corpus.jsonl")},
        # Two documents of the lab have at most some fifty tokens.
        "rollout": {
            "prompt": "question", "top_k": 2, "max_searches": 4, "max_turn_tokens": 80, "max_observation_tokens": 100,
        },
        "training": {
            "lr_schedule": "constant",
            "betas": [0.9, 0.95],
            "micro_batch_tokens": 2048,
            "save_every": 0,
            "threads": 1,
            **training,
            "max_batches_without_signal": training["steps"],  # a collapse is a result of the lab, played to its end
            "eval_every": training["steps"],
            "seed": seed,
            "output": str(folder),
        },
        "evaluation": {"limit": lab.test_questions},
    }  # fmt: skip
    return RunConfig.from_mapping(sections, overrides=arm.overrides)
