"""What a launcher asked for is read from the environment, and refused where no run can do it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.runs.sft import train_on_demonstrations
from calibadv.runs.train import train
from calibadv.training.launch import Launch

FILES = Path(__file__).parents[3] / "configs" / "accelerate"
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "WORLD_SIZE": "2"}

REFUSED = {
    "fsdp_version": FSDP | {"FSDP_VERSION": "1"},
    "fsdp_offload_params": FSDP | {"FSDP_OFFLOAD_PARAMS": "true"},
    "deepspeed_config.zero_stage": ZERO3 | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "deepspeed_config_file": ZERO3 | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "mine.json"},
    "Megatron-LM": {"ACCELERATE_USE_MEGATRON_LM": "true"},
    "parallelism_config": {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
}


@pytest.fixture
def config(tmp_path: Path, lab_run: Callable[..., dict[str, Any]]) -> RunConfig:
    training = {"steps": 2, "questions_per_batch": 2, "num_rollouts": 2, "output": str(tmp_path / "run"), "threads": 1}
    return RunConfig.from_mapping(lab_run(tmp_path, training=training))


def environment_of(file: str) -> dict[str, str]:
    """What ``accelerate launch --config_file`` gives to each process, by its own code."""
    from accelerate.commands.launch import _validate_launch_command

    port = ["--main_process_port", "0"]  # any that is free
    arguments = ["--config_file", str(FILES / file), *port, "-m", "calibadv", "train", "run.toml"]
    args, given, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(given.deepspeed_config)
        return {**prepare_deepspeed_cmd_env(args)[1], "WORLD_SIZE": str(args.num_processes)}
    return {**prepare_multi_gpu_env(args), "WORLD_SIZE": str(args.num_processes)}


@pytest.mark.parametrize(("file", "sharding"), [("fsdp2.yaml", "fsdp2"), ("zero3.yaml", "zero3")])
def test_the_files_that_ship_ask_for_what_their_names_say(file: str, sharding: str) -> None:
    launch = Launch.read(environment_of(file))
    assert (launch.sharding, launch.processes, launch.mixed_precision) == (sharding, 8, "no")
    for dtype in ("float32", "bfloat16", "float16"):
        launch.check_precision(dtype)
    launch.check_checkpointing(ours=True, environment=environment_of(file))


def test_without_a_launcher_one_process_has_the_whole_weights() -> None:
    assert Launch.read({}) == Launch()
    assert not Launch.read({"WORLD_SIZE": "4"}).is_sharded


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_run_can_do_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Launch.read(REFUSED[name])


@pytest.mark.parametrize(
    ("theirs", "ours"), [("bf16", "float32"), ("fp16", "bfloat16"), ("bf16", "float16"), ("fp8", "bfloat16")]
)
def test_a_mixed_precision_that_contradicts_the_dtype_names_both(theirs: str, ours: str) -> None:
    launch = Launch.read({"ACCELERATE_MIXED_PRECISION": theirs})
    with pytest.raises(ConfigError, match=f'"{theirs}".*model.dtype is "{ours}"'):
        launch.check_precision(ours)


@pytest.mark.parametrize(("theirs", "ours"), [("bf16", "bfloat16"), ("fp16", "float16"), ("no", "bfloat16")])
def test_a_mixed_precision_that_agrees_is_accepted(theirs: str, ours: str) -> None:
    Launch.read({"ACCELERATE_MIXED_PRECISION": theirs}).check_precision(ours)


def test_activation_checkpointing_is_switched_on_in_one_place() -> None:
    environment = FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}
    with pytest.raises(ConfigError, match=r"fsdp_activation_checkpointing.*training\.activation_checkpointing is true"):
        Launch.read(environment).check_checkpointing(ours=True, environment=environment)


def test_a_run_refuses_a_contradiction_before_it_writes_or_loads_anything(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for start in (train, train_on_demonstrations):
        with pytest.raises(ConfigError, match="mixed_precision"):
            start(config)
    assert not config.training.output.exists()


@pytest.mark.parametrize("environment", [FSDP, ZERO3], ids=["fsdp2", "zero3"])
def test_sharded_weights_are_refused_where_they_are_needed_whole(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r'"transformers" plays rollouts.*set model\.engine = "vllm"'):
        train(config)
    with pytest.raises(ConfigError, match="supervised training needs them whole"):
        train_on_demonstrations(config)
    assert not config.training.output.exists()
    assert "RANK" not in os.environ, "no process group was joined"
