"""What stays on disk: the newest few checkpoints, the best model, and everything older when the disk is full."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from calibadv.errors import SaveError
from calibadv.training.checkpoint_files import seal_checkpoint
from calibadv.training.overrides.checkpoint_saving import forget_old, removed_on_failure, save_policy


def make_checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"x")
    if complete:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        seal_checkpoint(folder)
    return folder


def test_only_the_newest_complete_checkpoints_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        make_checkpoint(tmp_path, step)
    torn = make_checkpoint(tmp_path, 10, complete=False)
    forget_old(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-6", "checkpoint-8"]
    assert torn.exists(), "a checkpoint that is being written, or was cut short, is nobody's business here"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/1")],
)
def test_a_checkpoint_that_cannot_be_written_is_removed_and_the_one_before_is_named(tmp_path: Path, error: Any) -> None:
    before = make_checkpoint(tmp_path, 2)

    def save() -> None:
        with removed_on_failure(tmp_path / "checkpoint-4"):
            make_checkpoint(tmp_path, 4, complete=False)
            raise error

    with pytest.raises(SaveError, match="could not be written") as caught:
        save()
    assert not (tmp_path / "checkpoint-4").exists()
    assert f"--resume continues from {before}" in str(caught.value)
    assert "MB are free there" in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_model_stays_when_the_new_one_cannot_be_written(
    make_model: Callable[[], LlamaForCausalLM], char_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    class FullDisk:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "half").write_text("3")
            raise OSError(errno.ENOSPC, "No space left on device")

    save_policy(make_model(), char_tokenizer, tmp_path / "best")
    before = sorted(path.name for path in (tmp_path / "best").iterdir())
    with pytest.raises(SaveError, match="No space left"):
        save_policy(make_model(), FullDisk(), tmp_path / "best")
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_the_best_model_says_why_it_is_the_best(
    make_model: Callable[[], LlamaForCausalLM], char_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_policy(make_model(), char_tokenizer, tmp_path / "best", record={"step": 4, "metric": "f1", "value": 0.5})
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {"step": 4, "metric": "f1", "value": 0.5}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "best").iterdir()}


CHILD = """
import resource, sys
from calibadv.cli.main import main
run, limit = sys.argv[1], int(sys.argv[2])
def full(line):
    if line["step"] == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
from calibadv.runs.step_lines import StepLines
show = StepLines.__call__
StepLines.__call__ = lambda self, line: (show(self, line), full(line))
sys.exit(main(["train", run]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on file sizes are a matter of Unix")
def test_a_real_file_system_that_refuses_costs_the_last_batch_only(
    tmp_path: Path, lab_run: Callable[..., dict[str, Any]], write_toml: Callable[..., Path]
) -> None:
    from calibadv.data.run_files import checkpoint_step, checkpoints

    sections = lab_run(
        tmp_path,
        training={
            "steps": 6, "questions_per_batch": 2, "num_rollouts": 4, "mini_batches": 1, "save_every": 1,
            "output": str(tmp_path / "run"),
        },
    )  # fmt: skip
    config = write_toml(tmp_path / "run.toml", sections)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(config), "100000"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be written" in done.stderr
    assert "run/checkpoint-1" in done.stderr
    assert [checkpoint_step(path) for path in checkpoints(tmp_path / "run")] == [1]
