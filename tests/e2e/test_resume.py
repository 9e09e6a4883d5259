"""A run that is killed and resumed is the run that was never disturbed, to the last bit, through the real command.

Not marked ``e2e``: users pay for this promise, so it is kept with every run of the tests.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.data.run_files import checkpoint_step, checkpoints
from calibadv.lab import load_policy
from calibadv.training.checkpoints import last_checkpoint

SETTINGS = {
    "steps": 8, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
    "learning_rate": 4e-4, "lr_schedule": "cosine", "warmup_steps": 2, "save_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]], write_toml: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("world")
    sections = lab_run(folder, rollout={"max_turn_tokens": 64}, training=SETTINGS)
    path: Path = write_toml(folder / "tiny.toml", sections)
    return path


def calibadv_train(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "calibadv", "train", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return errors


def wait_for_batches(process: subprocess.Popen[str], *, metrics: Path, lines: int) -> None:
    """Until that many batches are recorded."""
    while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") >= lines):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def kill_after(process: subprocess.Popen[str], *, metrics: Path, lines: int) -> None:
    """SIGKILL as soon as that many batches are recorded."""
    wait_for_batches(process, metrics=metrics, lines=lines)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def recorded(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds_")} for line in lines]


def trajectories(run: Path) -> dict[str, bytes]:
    return {path.name: gzip.decompress(path.read_bytes()) for path in (run / "trajectories").iterdir()}


def test_killed_run_resumes_as_if_nothing_had_happened(config: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    first = calibadv_train(config, "--set", f"training.output={undisturbed}")
    second = calibadv_train(config, "--set", f"training.output={killed}")
    kill_after(second, metrics=killed / "metrics.jsonl", lines=3)
    # A batch of 4 questions may be without a signal by chance; nothing else may be warned about.
    expected = ("INFO: ", "WARNING: No signal in this batch")
    assert [line for line in finish(first).splitlines() if not line.startswith(expected)] == []
    assert len(recorded(killed)) == 3

    # What a kill can leave behind besides: half a line of metrics, and a checkpoint that was still being written.
    with (killed / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 8, "rew')
    complete = last_checkpoint(killed)
    assert complete is not None
    torn = killed / "checkpoint-8"
    torn.mkdir(exist_ok=True)
    (torn / "model.safetensors").write_bytes(b"half")
    (torn / "trainer_state.json").unlink(missing_ok=True)

    errors = finish(calibadv_train("--resume", killed))
    assert f"{torn} is incomplete" in errors
    assert [line["step"] for line in recorded(killed)] == [2, 4, 6, 8]
    assert recorded(killed) == recorded(undisturbed)
    assert trajectories(killed) == trajectories(undisturbed)
    assert [checkpoint_step(path) for path in checkpoints(killed)] == [8, 6, 4, 2]
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (killed, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    base = load_file(load_policy() / "model.safetensors")
    assert not all(torch.equal(ours[name], base[name]) for name in base)


def stop_after(process: subprocess.Popen[str], *signals: int, metrics: Path, lines: int) -> tuple[int, str]:
    """Send signals as soon as that many batches are recorded; exit code and what it said."""
    wait_for_batches(process, metrics=metrics, lines=lines)
    for signum in signals:
        process.send_signal(signum)
        time.sleep(0.05)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


@pytest.mark.slow
def test_run_that_is_asked_to_stop_saves_and_resumes_as_if_nothing_had_happened(config: Path, tmp_path: Path) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    finish(calibadv_train(config, "--set", f"training.output={undisturbed}"))
    never_by_itself = ["--set", "training.save_every=8"]
    process = calibadv_train(config, "--set", f"training.output={stopped}", *never_by_itself)
    code, errors = stop_after(process, signal.SIGTERM, metrics=stopped / "metrics.jsonl", lines=1)
    assert code == 128 + signal.SIGTERM, errors
    assert "--resume continues from" in errors
    assert "Traceback" not in errors
    saved = last_checkpoint(stopped)
    assert saved is not None
    assert checkpoint_step(saved) >= 2
    assert not (stopped / "model").exists()

    code, errors = stop_after(
        calibadv_train("--resume", stopped), signal.SIGINT, signal.SIGINT, metrics=stopped / "metrics.jsonl",
        lines=checkpoint_step(saved) // 2 + 1,
    )  # fmt: skip
    assert code == 130, errors
    assert "Traceback" not in errors

    finish(calibadv_train("--resume", stopped))
    assert recorded(stopped) == recorded(undisturbed)
    assert trajectories(stopped) == trajectories(undisturbed)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (stopped, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
