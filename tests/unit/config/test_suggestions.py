"""What is suggested for a setting that does not exist is what was meant."""

import pytest

from calibadv.config import RunConfig
from calibadv.config_class import type_hints
from calibadv.errors import ConfigError
from calibadv.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("training.kl_coef", "training.beta"),
        ("training.epsilon_high", "training.clip_high"),
        ("training.num_generations", "training.num_rollouts"),
        ("training.temperature", "rollout.temperature or evaluation.temperature"),
        ("rollout.seed", "data.seed or training.seed or sft.seed"),
        ("training.bets", "training.betas"),
    ],
)
def test_suggestion_is_what_was_meant(given: str, meant: str) -> None:
    sections = {"model": {"path": "x"}, "retrieval": {"corpus": "x"}}
    with pytest.raises(ConfigError, match=rf"^{given} is not a setting; did you mean {meant}\?$"):
        RunConfig.from_mapping(sections, overrides=[f"{given}=1"])


def test_names_of_other_trainers_lead_to_settings_that_exist() -> None:
    settings = set(type_hints(TrainingConfig))
    assert set(TrainingConfig.ALSO_CALLED.values()) <= settings
    assert not set(TrainingConfig.ALSO_CALLED) & settings
