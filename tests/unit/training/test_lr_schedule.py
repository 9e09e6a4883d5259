"""The learning rate of a run, update by update, against rates worked out by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.runs.train import train
from calibadv.training import read_metrics
from calibadv.training.config import TrainingConfig
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.trainer import CalibAdvTrainer

COS_45 = math.sqrt(0.5)


def rates(trainer: CalibAdvTrainer) -> list[float]:
    """The rate of every update of a whole run, as logged."""
    trainer.train()
    return [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]


def test_the_rate_is_the_same_for_all_updates_of_a_batch_and_the_run_may_end_on_the_way_down(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer(
        max_steps=6, learning_rate=1.0, lr_scheduler_type="cosine", lr_decay_steps=8, lr_decay_per="batch"
    )
    # Two updates a batch: steps 0, 2, 4 of 8 are 0, 45 and 90 degrees of the half wave.
    assert rates(trainer) == pytest.approx([1.0, 1.0, (1 + COS_45) / 2, (1 + COS_45) / 2, 0.5, 0.5], abs=1e-12)


def test_without_the_settings_the_rate_falls_with_every_update_to_the_end_of_the_run(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer(max_steps=4, learning_rate=1.0, lr_scheduler_type="cosine")
    assert rates(trainer) == pytest.approx([1.0, (1 + COS_45) / 2, 0.5, (1 - COS_45) / 2], abs=1e-12)


def test_a_warm_up_rises_with_every_update_and_the_decay_follows_batch_by_batch(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer(
        max_steps=8, learning_rate=1.0, lr_scheduler_type="linear", warmup_steps=3, lr_decay_steps=13,
        lr_decay_per="batch",
    )  # fmt: skip
    assert rates(trainer) == pytest.approx([0, 1 / 3, 2 / 3, 1.0, 0.9, 0.9, 0.7, 0.7], abs=1e-12)


def test_the_published_schedule_goes_from_5e_7_to_half_of_it_in_205_batches(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer(
        questions_per_batch=5, num_generations=4, mini_batches=10,
        max_steps=2050, learning_rate=5e-7, lr_scheduler_type="cosine", lr_decay_steps=4100, lr_decay_per="batch",
    )  # fmt: skip
    assert trainer.updates_per_batch == 10
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=5e-7)
    scheduler = trainer.create_scheduler(2050, optimizer)
    seen = []
    for _ in range(2050):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert all(len(set(seen[start : start + 10])) == 1 for start in range(0, 2050, 10)), "a batch has one rate"
    # Batches 0, 41, 82, 164 of a cosine of 410: 0, 18, 36 and 72 degrees.
    by_hand = {0: 5.0e-7, 41: 4.877641290737885e-7, 82: 4.522542485937369e-7, 164: 3.272542485937369e-7}
    assert {batch: seen[batch * 10] for batch in by_hand} == pytest.approx(by_hand, rel=1e-12)
    assert scheduler.get_last_lr()[0] == pytest.approx(2.5e-7, rel=1e-12), "what a further batch would have"


def test_a_run_on_a_longer_curve_is_resumed_and_lengthened_to_the_last_bit(
    tmp_path: Path, lab_run: Callable[..., dict[str, Any]]
) -> None:
    sections = lab_run(tmp_path)

    def run(name: str, *, steps: int, resume: bool = False) -> Path:
        training = {
            "steps": steps, "questions_per_batch": 2, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
            "learning_rate": 4e-4, "lr_schedule": "cosine", "lr_decay_steps": 8, "lr_decay_per": "batch",
            "warmup_steps": 0, "save_every": 2, "output": str(tmp_path / name),
        }  # fmt: skip
        return train(RunConfig.from_mapping(sections | {"training": training}), resume=resume)

    whole = run("whole", steps=4)
    run("parts", steps=2)
    parts = run("parts", steps=4, resume=True)
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (whole, parts)]
    assert [line["lr"] for line in lines[0]] == pytest.approx([4e-4, 4e-4 * (1 + COS_45) / 2], rel=1e-12)
    assert [line["lr"] for line in lines[1]] == [line["lr"] for line in lines[0]]
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_decay_steps": 10}, r"lr_decay_steps \(10\) must be >= training.steps \(\d+\)"),
        ({"lr_schedule": "constant", "lr_decay_steps": 4100}, r"lr_decay_steps = 4100 has no effect with .*constant"),
        ({"lr_schedule": "constant", "lr_decay_per": "batch"}, r"lr_decay_per = 'batch' has no effect with .*constant"),
        ({"lr_decay_steps": 0}, r"lr_decay_steps must be >= 1, got 0; leave it out"),
    ],
)  # fmt: skip
def test_schedules_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**settings)


def test_from_python_the_same_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"lr_decay_steps \(2\) must be >= max_steps \(4\)"):
        CalibAdvConfig(**settings, lr_decay_steps=2)
    with pytest.raises(ConfigError, match="lr_decay_per must be step or batch, got 'epoch'"):
        CalibAdvConfig(**settings, lr_decay_per="epoch")
    with pytest.raises(ConfigError, match=r"'greedy' follows evaluations .*: use 'cosine' or 'linear'"):
        CalibAdvConfig(**settings | {"lr_scheduler_type": "greedy"})
