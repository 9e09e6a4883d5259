"""Arms and settings of a lab, and the run config they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibadv.advantage import CalibrationConfig
from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.lab.arms import Arm, parse_arms
from calibadv.lab.config import LabConfig, arm_config

ROOT = Path(__file__).parents[3]


def config_of(arm: str, lab: LabConfig | None = None, *, seed: int = 0) -> RunConfig:
    folder = Path("lab")
    return arm_config(lab or LabConfig(), Arm.parse(arm), seed=seed, world_dir=folder / "world", folder=folder / "run")


def test_arms_become_settings_of_the_run() -> None:
    config = config_of("calibadv:lambda=0.5:lr=2e-4", seed=3)
    assert config.calibration.rebalance_coef == 0.5
    assert config.training.learning_rate == 2e-4
    assert config.training.seed == 3
    assert config_of("grpo").active_calibration == CalibrationConfig.plain()


def test_arms_differ_only_in_what_their_names_say() -> None:
    grpo, calibadv = config_of("grpo").effective(), config_of("calibadv").effective()
    assert grpo.pop("algorithm") == {"name": "grpo"}
    assert calibadv.pop("algorithm") == {"name": "calibadv"}
    assert grpo == calibadv


def test_config_file_of_the_lab_has_the_settings_of_its_arms() -> None:
    arm, file = config_of("calibadv").effective(), RunConfig.read(ROOT / "configs" / "lab.toml").effective()
    for sections in (arm, file):
        for name in ("output", "save_every", "max_batches_without_signal"):
            del sections["training"][name]
    for section in ("rollout", "reward", "algorithm", "calibration", "training", "evaluation"):
        assert file[section] == arm[section]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("ppo", "must begin with one of grpo, calibadv"),
        ("calibadv:lambda", "not key=value"),
        ("calibadv:size=3", "not key=value"),
        ("grpo:lambda=0.5", "plain GRPO does not use"),
        ("grpo,grpo", "twice"),
    ],
)
def test_wrong_arms_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arms(text)


@pytest.mark.parametrize("arm", ["calibadv:lambda=0", "calibadv:lambda=-1", "calibadv:lambda=often", "grpo:loss=ppo"])
def test_settings_of_an_arm_are_checked_before_anything_runs(arm: str) -> None:
    with pytest.raises(ConfigError):
        config_of(arm)


@pytest.mark.parametrize(
    ("lab", "field"),
    [
        (lambda: LabConfig(steps=0), "steps"),
        (lambda: LabConfig(seeds=0), "seeds"),
        (lambda: LabConfig(workers=0), "workers"),
        (lambda: LabConfig(test_questions=0), "test_questions"),
        (lambda: LabConfig(preset="wild"), "preset"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_refused_by_name(lab: object, field: str) -> None:
    assert callable(lab)
    with pytest.raises(ConfigError, match=field):
        lab()


def test_steps_are_rounded_up_to_whole_batches() -> None:
    assert config_of("grpo", LabConfig(preset="aggressive", steps=13)).training.steps == 24


def test_one_step_is_enough_for_a_quick_look() -> None:
    config = config_of("grpo", LabConfig(steps=1))
    assert (config.training.steps, config.training.warmup_steps) == (2, 2)
