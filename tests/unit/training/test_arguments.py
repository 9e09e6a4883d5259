"""The settings of a run in TRL's terms."""

from pathlib import Path
from typing import Any

import pytest
import torch

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig
from calibadv.runs.trainer_args import (
    available_trackers,
    loss_options,
    precision,
    trainer_config,
    trains_on_cpu,
)
from calibadv.training.config import TrainingConfig
from calibadv.training.grpo_config import CalibAdvConfig


def run_config(**training: Any) -> RunConfig:
    return RunConfig.from_mapping(
        {"model": {"path": ".", "device": "cpu"}, "retrieval": {"corpus": "corpus.jsonl"}, "training": training}
    )


def test_the_defaults_in_the_trainers_terms() -> None:
    args = trainer_config(run_config(micro_batch_tokens=8192), Path("runs/x"))
    assert (args.questions_per_batch, args.num_generations, args.mini_batches, args.updates_per_batch) == (512, 5, 2, 2)
    assert (args.per_device_train_batch_size, args.micro_batch_tokens) == (2560, 8192)
    assert (args.learning_rate, args.epsilon, args.epsilon_high, args.max_grad_norm) == (5e-7, 0.2, 0.2, 1.0)
    assert (args.loss_type, args.beta, args.num_iterations, args.max_steps) == ("dapo", 0.0, 1, 410)
    assert not args.bf16
    assert not args.fp16


def test_epochs_repeat_a_batch() -> None:
    settings = {
        "questions_per_batch": 4,
        "num_rollouts": 4,
        "mini_batches": 2,
        "epochs": 3,
        "steps": 12,
        "save_every": 6,
    }
    args = trainer_config(run_config(**settings), Path("runs/x"))
    assert (args.mini_batches, args.updates_per_batch) == (2, 6)


def test_processes_share_a_batch_of_which_every_mini_batch_is_as_many_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match=r"questions_per_batch is 60, which 8 processes cannot share evenly"):
        CalibAdvConfig(questions_per_batch=60, num_generations=5, bf16=False)


def test_trackers_that_cannot_work_are_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_trackers([]) == []
    with pytest.raises(ConfigError, match=r'report_to "nope" is not a known tracker; choose from .*wandb'):
        available_trackers(["nope"])
    (tmp_path / "trackio.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert available_trackers(["trackio"]) == ["trackio"]
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    with pytest.raises(ConfigError, match=r'"mlflow" needs a package that is not installed'):
        available_trackers(["trackio", "mlflow"])


def test_gspo_weighs_trajectories_and_cispo_clips_weights_above_one() -> None:
    gspo = loss_options(TrainingConfig(loss_type="gspo", clip=0.1))
    assert gspo == {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 0.1,
        "epsilon_high": 0.1,
    }
    assert loss_options(TrainingConfig(loss_type="cispo", clip=0.2))["epsilon_high"] == pytest.approx(1.2)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "gspo"])
def test_the_upper_clip_range_can_differ_from_the_lower(loss_type: Any) -> None:
    options = loss_options(TrainingConfig(loss_type=loss_type, clip=0.2, clip_high=0.28))
    assert (options["epsilon"], options["epsilon_high"]) == (0.2, 0.28)


def test_clip_high_is_the_largest_weight_of_cispo() -> None:
    assert loss_options(TrainingConfig(loss_type="cispo", clip_high=5.0))["epsilon_high"] == 5.0
    with pytest.raises(ConfigError, match=r"training.clip_high must be > 1 .*cispo.* got 0.28"):
        TrainingConfig(loss_type="cispo", clip_high=0.28)


def test_a_device_that_the_trainer_would_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trains_on_cpu("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert not trains_on_cpu("cuda:0")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=1"):
        trains_on_cpu("cuda:1")


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_float16_on_a_cpu_is_refused_because_it_would_be_float32(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r'model.dtype "float16" cannot be trained on a CPU.*"bfloat16"'):
        precision(ModelConfig(path=".", device=device, dtype="float16"))
    assert precision(ModelConfig(path=".", device="cpu", dtype="bfloat16"))["bf16"]
