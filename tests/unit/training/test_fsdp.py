"""FSDP2 over two gloo processes: weights of an unsharded run, whole files, and a run that continues on any number.

accelerate shards on accelerators only; ``tests/support/fsdp_on_cpu.py`` tells it that it may, and has the engine that
plays with gathered weights.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from calibadv.data.run_files import checkpoints, read_metrics
from calibadv.data.trajectory_files import read_trajectories

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "no",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
"""What accelerate makes of configs/accelerate/fsdp2.yaml (`test_launch` checks that it is read)."""
SETTINGS = {
    "steps": 4, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 1, "learning_rate": 4e-4,
    "lr_schedule": "constant", "save_every": 2, "eval_every": 2,
}  # fmt: skip
TOLERANCE = 2e-5
"""Of weights after four steps of 4e-4: AdamW divides by the root of a moment that can be as small as the noise."""


@pytest.fixture
def config(tmp_path: Path, lab_run: Callable[..., dict[str, Any]], write_toml: Callable[..., Path]) -> Path:
    sections = lab_run(tmp_path, training=SETTINGS, evaluation={"limit": 4})
    sections["data"]["test"] = [str(tmp_path / "questions.test.jsonl")]
    return write_toml(tmp_path / "run.toml", sections)


@contextmanager
def started(*arguments: Any, processes: int) -> Iterator[subprocess.Popen[str]]:
    """``calibadv train`` in so many processes that shard; 0: in one that does not."""
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    command = [sys.executable, "-m", "calibadv"]
    if processes:
        environment |= FSDP
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, str(SUPPORT / "fsdp_on_cpu.py")]
    command += ["train", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def train(*arguments: Any, processes: int) -> str:
    with started(*arguments, processes=processes) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def setting(**values: Any) -> list[str]:
    return [part for name, value in values.items() for part in ("--set", f"{name.replace('__', '.')}={value}")]


GATHERING = setting(model__engine="fsdp_on_cpu:gathering")


def lines(run: Path, *names: str) -> list[list[Any]]:
    return [[line[name] for name in names] for line in read_metrics(run / "metrics.jsonl")]


def assert_same_run(run: Path, wanted: Path, *, weights: tuple[str, ...] = ("model", "checkpoint-4")) -> None:
    assert lines(run, "step", "reward", "f1", "searches") == lines(wanted, "step", "reward", "f1", "searches")
    for name in ("loss", "grad_norm"):
        values, expected = (torch.tensor(lines(folder, name)) for folder in (run, wanted))
        assert torch.allclose(values, expected, rtol=1e-3, atol=1e-5), name
    for folder in weights:
        ours, theirs = (load_file(path / folder / "model.safetensors") for path in (run, wanted))
        assert ours.keys() == theirs.keys(), "a shared weight is stored once"
        assert max((ours[name] - theirs[name]).abs().max().item() for name in theirs) < TOLERANCE


def advantages(run: Path, step: int) -> dict[Any, list[float]]:
    """Of every rollout of a batch, by question and number: its turns' advantages."""
    paths = run.glob(f"trajectories/step-{step:06}*")
    records = [record for path in paths for record in read_trajectories(path)]
    return {
        (r.trajectory.question.id, r.trajectory.rollout_index): list(r.credit.calibrated) for r in records if r.credit
    }


def test_two_sharded_processes_train_what_one_whole_process_trains(config: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(config, *setting(training__output=one), processes=0)
    train(config, *setting(training__output=two), *GATHERING, processes=2)
    assert_same_run(two, one)
    assert read_metrics(two / "eval.jsonl")[0]["f1"] == read_metrics(one / "eval.jsonl")[0]["f1"]
    ours, theirs = advantages(two, 1), advantages(one, 1)
    assert ours.keys() == theirs.keys()
    assert len(ours) == 16
    assert all(ours[key] == pytest.approx(theirs[key], abs=1e-6) for key in theirs)
    moments = [torch.load(run / "checkpoint-4" / "optimizer.pt", weights_only=True) for run in (two, one)]
    assert moments[0]["param_groups"] == moments[1]["param_groups"]
    shapes = [{n: its["exp_avg"].shape for n, its in state["state"].items()} for state in moments]
    assert shapes[0] == shapes[1], "a checkpoint holds whole moments"
    AutoModelForCausalLM.from_pretrained(two / "model")

    # Cut in two: the second half sharded again, whole in one process, and sharded from a whole checkpoint.
    for first, second in ((2, 2), (2, 0), (0, 2)):
        cut = tmp_path / f"cut-{first}-{second}"
        train(config, *setting(training__output=cut, training__steps=2), *GATHERING, processes=first)
        train("--resume", cut, *setting(training__steps=4), processes=second)
        assert_same_run(cut, two)


def test_a_killed_rank_ends_the_run_and_the_run_continues(config: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, *setting(training__output=whole), *GATHERING, processes=2)
    with started(config, *setting(training__output=killed), *GATHERING, processes=2) as process:
        while not checkpoints(killed) or len(read_metrics(killed / "metrics.jsonl")) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        rank = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(rank.stdout.split()[-1]), signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert f"--resume continues from {killed}/checkpoint-" in output or "SIGKILL" in output
    train("--resume", killed, processes=2)
    assert_same_run(killed, whole)


def test_an_adapter_trains_sharded_and_continues_whole(config: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    adapter = setting(lora__rank=4, training__beta=0.1, training__eval_every=0)
    train(config, *setting(training__output=one), *adapter, *GATHERING, processes=0)
    train(config, *setting(training__output=two, training__steps=2), *adapter, *GATHERING, processes=2)
    train("--resume", two, *setting(training__steps=4), processes=0)
    assert_same_run(two, one, weights=("model",))
    names = [load_file(run / "checkpoint-4" / "adapter_model.safetensors").keys() for run in (two, one)]
    assert names[0] == names[1]
