"""Which checkpoint a resumed run starts from."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from calibadv.data.run_files import checkpoint_step, checkpoints, read_metrics
from calibadv.errors import DataError
from calibadv.training.checkpoint_files import begin_checkpoint, problem_of, seal_checkpoint
from calibadv.training.checkpoints import checkpoint_to_resume, forget_after, last_checkpoint, newest_model

FILES = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def make_checkpoint(run: Path, step: int, *, seal: bool = True) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    save_file({"weight": torch.ones(4)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(4)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    if seal:
        seal_checkpoint(folder)
    return folder


def test_newest_is_found_by_number_not_by_name(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 8):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    newest = last_checkpoint(tmp_path)
    assert newest is not None
    assert checkpoint_step(newest) == 10


CHANGES: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "of another kind": lambda path: path.write_text("[1, 2, 3]", encoding="utf-8"),
}


WHOLE = [*FILES, "trainer_state.json"]
DAMAGE = [(name, change) for name in WHOLE for change in CHANGES]
DAMAGE += [("checkpoint_files.json", change) for change in CHANGES if change != "removed"]


@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_damaged_checkpoint_is_passed_over_and_folder_and_file_are_named(
    tmp_path: Path, name: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, damaged = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 4)
    CHANGES[change](damaged / name)
    assert last_checkpoint(tmp_path) == good
    assert f"{damaged} is incomplete or damaged (" in caplog.text
    assert name in caplog.text


@pytest.mark.parametrize("name", WHOLE)
def test_bytes_that_changed_on_the_disk_are_found_before_a_run_resumes(tmp_path: Path, name: str) -> None:
    good, damaged = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 4)
    content = bytearray((damaged / name).read_bytes())
    content[-1] ^= 4  # as long as before, and JSON is still JSON
    (damaged / name).write_bytes(content)
    assert last_checkpoint(tmp_path, verify=True) == good
    assert newest_model(tmp_path) == good
    assert name in str(problem_of(damaged, verify=True))


def test_a_run_whose_every_checkpoint_is_damaged_keeps_its_records(tmp_path: Path) -> None:
    for step in (2, 4):
        CHANGES["cut short"](make_checkpoint(tmp_path, step) / "model.safetensors")
    with pytest.raises(DataError, match=rf"every checkpoint .* is damaged; bring the files of {tmp_path}/checkpoint-4"):
        checkpoint_to_resume(tmp_path)
    good = make_checkpoint(tmp_path, 1)
    assert checkpoint_to_resume(tmp_path) == good


def test_a_run_that_was_stopped_in_its_first_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    begin_checkpoint(tmp_path / "checkpoint-2")
    make_checkpoint(tmp_path, 2, seal=False)
    assert checkpoint_to_resume(tmp_path) is None


def test_checkpoint_that_was_begun_and_not_sealed_is_incomplete(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-2"
    begin_checkpoint(folder)
    make_checkpoint(tmp_path, 2, seal=False)
    assert "does not list the files" in str(problem_of(folder))
    seal_checkpoint(folder)
    assert problem_of(folder, verify=True) is None


@pytest.mark.parametrize("change", ["emptied", "cut short"])
@pytest.mark.parametrize("name", WHOLE)
def test_checkpoint_of_an_earlier_version_must_at_least_open(tmp_path: Path, name: str, change: str) -> None:
    folder = make_checkpoint(tmp_path, 4, seal=False)
    assert problem_of(folder) is None
    CHANGES[change](folder / name)
    assert name in str(problem_of(folder))


def test_files_of_others_among_the_trajectories_are_left_alone(tmp_path: Path) -> None:
    good = make_checkpoint(tmp_path, 4)
    (tmp_path / "trajectories").mkdir()
    for name in ("step-notes.jsonl", "step-6-copy.jsonl.gz", "step-000006.jsonl.gz.bak", "README", "step-000006.jsonl"):
        (tmp_path / "trajectories" / name).touch()
    forget_after(tmp_path, good)
    assert sorted(path.name for path in (tmp_path / "trajectories").iterdir()) == [
        "README", "step-000006.jsonl.gz.bak", "step-6-copy.jsonl.gz", "step-notes.jsonl",
    ]  # fmt: skip


def test_the_model_of_a_run_is_never_a_half_written_checkpoint(tmp_path: Path) -> None:
    assert newest_model(tmp_path) is None
    torn = make_checkpoint(tmp_path, 4)
    (torn / "trainer_state.json").unlink()
    assert newest_model(tmp_path) is None
    whole = make_checkpoint(tmp_path, 2)
    assert newest_model(tmp_path) == whole
    (tmp_path / "model").mkdir()
    assert newest_model(tmp_path) == tmp_path / "model"


@pytest.mark.parametrize("text", ["", '{"global_step": 4', '{"global_step": 3}', "{}", "[4]"])
def test_half_written_trainer_state_counts_as_missing(tmp_path: Path, text: str) -> None:
    torn = make_checkpoint(tmp_path, 4, seal=False)
    (torn / "trainer_state.json").write_text(text, encoding="utf-8")
    assert "trainer_state.json" in str(problem_of(torn))


def test_records_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    good = make_checkpoint(tmp_path, 4)
    make_checkpoint(tmp_path, 6)
    lines = [json.dumps({"step": step}) + "\n" for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"st', encoding="utf-8")
    (tmp_path / "eval.jsonl").write_text('{"step": 0}\n{"step": 6}\n', encoding="utf-8")
    (tmp_path / "trajectories").mkdir()
    for name in ("step-000004.jsonl.gz", "step-000006.jsonl.gz", "step-000006.1.jsonl.gz"):
        (tmp_path / "trajectories" / name).touch()
    forget_after(tmp_path, good)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [2, 4]
    assert [row["step"] for row in read_metrics(tmp_path / "eval.jsonl")] == [0]
    assert [path.name for path in (tmp_path / "trajectories").iterdir()] == ["step-000004.jsonl.gz"]
    assert list(checkpoints(tmp_path)) == [good]
    forget_after(tmp_path, None)
    assert (tmp_path / "eval.jsonl").read_text(encoding="utf-8") == ""
    assert list(checkpoints(tmp_path)) == []
