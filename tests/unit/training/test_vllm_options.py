"""The settings of vLLM in training: how they reach TRL, and which are refused. ``tests/vllm`` trains with it."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trl.import_utils import is_vllm_available

import calibadv
from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.rollout.policies.vllm import TRAINABLE_VERSIONS, check_trainable_version
from calibadv.runs.trainer_args import NOT_IN_TRAINING, trainer_config
from calibadv.training.trainer import gap_message

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def make_config(tmp_path: Path, lab_run: Callable[..., dict[str, Any]]) -> MakeConfig:
    def make(**given: dict[str, Any]) -> RunConfig:
        model = {"engine": "vllm"} | given.pop("model", {})
        return RunConfig.from_mapping(lab_run(tmp_path, model=model, **given))

    return make


def test_the_settings_reach_trl(make_config: MakeConfig, tmp_path: Path) -> None:
    arguments = ["gpu_memory_utilization=0.4", "tensor_parallel_size=1", "enforce_eager=true"]
    args = trainer_config(
        make_config(
            model={"engine_args": arguments, "max_context": 512, "max_rows": 32, "dtype": "bfloat16"},
            training={"engine_correction": "sequence_mask", "engine_correction_max": 3.0, "engine_gap_alarm": 0.2},
        ),
        tmp_path / "run",
    )
    assert args.use_vllm
    assert args.vllm_mode == "colocate"
    assert args.vllm_gpu_memory_utilization == 0.4
    assert args.vllm_max_model_length == 512
    assert not args.vllm_enable_sleep_mode  # on a CPU
    assert args.vllm_arguments == {
        "dtype": "bfloat16", "max_num_seqs": 32, "enforce_eager": True, "logprobs_mode": "raw_logprobs",
    }  # fmt: skip
    assert args.vllm_importance_sampling_correction
    assert (args.vllm_importance_sampling_mode, args.vllm_importance_sampling_clip_max) == ("sequence_mask", 3.0)
    assert args.vllm_gap_alarm == 0.2


def test_without_a_correction_trl_makes_none(make_config: MakeConfig, tmp_path: Path) -> None:
    args = trainer_config(make_config(training={"engine_correction": "none"}), tmp_path / "run")
    assert args.use_vllm
    assert not args.vllm_importance_sampling_correction


def test_another_temperature_asks_vllm_for_what_it_sampled_from(make_config: MakeConfig, tmp_path: Path) -> None:
    args = trainer_config(make_config(rollout={"temperature": 0.7}), tmp_path / "run")
    assert args.vllm_arguments["logprobs_mode"] == "processed_logprobs"
    with pytest.raises(ConfigError, match=r"temperature is 0\.7 and rollout\.top_p 0\.9.*Set one of them to 1"):
        trainer_config(make_config(rollout={"temperature": 0.7, "top_p": 0.9}), tmp_path / "run")
    uncorrected = make_config(rollout={"temperature": 0.7, "top_p": 0.9}, training={"engine_correction": "none"})
    assert trainer_config(uncorrected, tmp_path / "run").vllm_arguments["logprobs_mode"] == "raw_logprobs"


@pytest.mark.parametrize("name", sorted(NOT_IN_TRAINING))
def test_arguments_that_training_sets_are_refused(make_config: MakeConfig, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.engine_args: {name} cannot be set in training \("):
        trainer_config(make_config(model={"engine_args": [f"{name}=1"]}), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value"), [("engine_correction", "none"), ("engine_correction_max", 3.0), ("engine_gap_alarm", 0.1)]
)
def test_settings_of_vllm_are_refused_for_the_model_itself(make_config: MakeConfig, name: str, value: Any) -> None:
    make_config(training={name: value}).check_trainable()
    other = make_config(model={"engine": "transformers"}, training={name: value})
    with pytest.raises(ConfigError, match=rf'training\.{name} = .* is for model\.engine "vllm", but the engine is "tr'):
        other.check_trainable()


def test_a_policy_of_ones_own_takes_the_place_of_vllm(make_config: MakeConfig, tmp_path: Path) -> None:
    assert not trainer_config(make_config(), tmp_path / "run", own_policy=True).use_vllm


@pytest.mark.parametrize("found", ["0.22.0", "0.30.1", "0.31.0", "0.31.0+cu129"])
def test_versions_that_trl_supports_are_accepted(found: str) -> None:
    check_trainable_version(found)


@pytest.mark.parametrize("found", ["0.21.3", "0.32.0", "1.0.0"])
def test_other_versions_are_refused_with_the_command_that_helps(found: str) -> None:
    with pytest.raises(ConfigError, match=rf"trains with vLLM 0\.22\.0 to 0\.31\.0, but {found} is installed: pip"):
        check_trainable_version(found)


def test_the_versions_are_those_that_trl_names() -> None:
    source = inspect.getsource(is_vllm_available)
    first, last = TRAINABLE_VERSIONS
    assert f'Version("{first}") <= _vllm_base_version <= Version("{last}")' in source


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_training_without_vllm_says_how_to_install_it_before_anything_is_loaded(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"needs vLLM, which is not installed: pip install 'calibadv\[vllm\]'"):
        calibadv.train(make_config(training={"output": str(output)}))
    assert not output.exists()


def test_the_warning_about_a_gap_says_what_to_do() -> None:
    message = gap_message(0.2, alarm=0.05)
    assert "differ by 0.2 in the mean, more than training.engine_gap_alarm (0.05)" in message
    assert 'model.dtype = "float32"' in message
