"""A sharded optimizer makes the weights of a whole one, over two processes, also when the run is cut in two."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.training import read_metrics

SETTINGS = {
    "steps": 4, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
    "learning_rate": 4e-4, "lr_schedule": "constant", "save_every": 2,
}  # fmt: skip


def train(*arguments: Any) -> None:
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "calibadv", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sharded_and_whole_optimizers_make_the_same_weights(
    tmp_path: Path, lab_run: Callable[..., dict[str, Any]], write_toml: Callable[..., Path]
) -> None:
    config = write_toml(tmp_path / "run.toml", lab_run(tmp_path, training=SETTINGS))
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    train(config, "--set", f"training.output={whole}")
    on = ["--set", "training.shard_optimizer=true"]
    train(config, "--set", f"training.output={sharded}", "--set", "training.steps=2", *on)
    train("--resume", sharded, "--set", "training.steps=4")
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (sharded, whole))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    lines, wanted = ([line["reward"] for line in read_metrics(run / "metrics.jsonl")] for run in (sharded, whole))
    assert lines == wanted
    sizes = [(run / "checkpoint-4" / "optimizer.pt").stat().st_size for run in (sharded, whole)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05), "a checkpoint holds the moments of all processes"
