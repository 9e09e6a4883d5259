"""Runs over two processes: what they agree on, what they share, and what is said when one of them is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calibadv.data.run_files import read_metrics
from calibadv.training.checkpoints import last_checkpoint

SETTINGS = {
    "steps": 4, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
    "learning_rate": 4e-4, "lr_schedule": "constant", "save_every": 2, "eval_every": 2,
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(arguments: Sequence[Sequence[Any]], folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """One process for each list of arguments of ``calibadv train``, without a launcher that watches them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(arguments))}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = []
    for rank, mine in enumerate(arguments):
        with (folder / f"rank-{rank}.txt").open("w") as output:
            command = [sys.executable, "-m", "calibadv", "train", *map(str, mine)]
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output, text=True))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(folder: Path, rank: int) -> str:
    return (folder / f"rank-{rank}.txt").read_text()


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[int]:
    return [process.wait(timeout=300) for process in processes]


@pytest.fixture
def config(tmp_path: Path, lab_run: Callable[..., dict[str, Any]], write_toml: Callable[..., Path]) -> Path:
    sections = lab_run(tmp_path, training=SETTINGS, evaluation={"limit": 9})
    sections["data"]["test"] = [str(tmp_path / "questions.test.jsonl")]
    return write_toml(tmp_path / "run.toml", sections)


@pytest.mark.slow
def test_two_processes_share_an_evaluation_and_write_what_one_writes(config: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    for count, output in enumerate(outputs, start=1):
        with started([[config, "--set", f"training.output={output}"]] * count, tmp_path) as processes:
            assert finish(processes) == [0] * count, said(tmp_path, 0)
    one, two = (read_metrics(output / "eval.jsonl") for output in outputs)
    ignored = {"seconds"}
    assert [line["step"] for line in two] == [0, 2, 4]
    assert {key: value for key, value in one[0].items() if key not in ignored} == {
        key: value for key, value in two[0].items() if key not in ignored
    }
    assert one[0]["questions"] == 9


@pytest.mark.slow
def test_processes_with_different_settings_end_in_one_line(config: Path, tmp_path: Path) -> None:
    output = ["--set", f"training.output={tmp_path / 'run'}"]
    with started([[config, *output], [config, *output, "--set", "training.seed=1"]], tmp_path) as processes:
        assert finish(processes) == [2, 2]
    for rank in (0, 1):
        message = said(tmp_path, rank)
        assert "different settings: training.seed is 1 in process 1" in message or "training.seed is 0" in message
        assert "Traceback" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_one_line_that_says_how_to_continue(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["--set", f"training.output={run}", "--set", "training.steps=40"]
    with started([[config, *more]] * 2, tmp_path) as processes:
        while last_checkpoint(run) is None or not read_metrics(run / "metrics.jsonl"):
            assert processes[0].poll() is None, said(tmp_path, 0)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGKILL)
        assert processes[0].wait(timeout=120) == 1
    message = said(tmp_path, 0)
    assert "another process of this run has ended" in message
    assert f"--resume continues from {run}/checkpoint-" in message
    assert "Traceback" not in message
