"""Which checkpoint a resumed run starts from."""

import json
from pathlib import Path

import pytest

from calibadv.data.run_files import checkpoint_step, checkpoints, read_metrics
from calibadv.training.checkpoints import forget_after, last_checkpoint, missing_part, newest_model

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def make_checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}), encoding="utf-8")
    return folder


def test_newest_is_found_by_number_not_by_name(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 10, 8):
        make_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    newest = last_checkpoint(tmp_path)
    assert newest is not None
    assert checkpoint_step(newest) == 10


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json"])
def test_incomplete_checkpoint_is_passed_over(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    good, torn = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 4)
    (torn / name).unlink()
    assert missing_part(torn) is not None
    assert last_checkpoint(tmp_path) == good
    assert f"{torn} is incomplete" in caplog.text


def test_the_model_of_a_run_is_never_a_half_written_checkpoint(tmp_path: Path) -> None:
    assert newest_model(tmp_path) is None
    torn = make_checkpoint(tmp_path, 4)
    (torn / "trainer_state.json").unlink()
    assert newest_model(tmp_path) is None
    whole = make_checkpoint(tmp_path, 2)
    assert newest_model(tmp_path) == whole
    (tmp_path / "model").mkdir()
    assert newest_model(tmp_path) == tmp_path / "model"


@pytest.mark.parametrize("text", ["", '{"global_step": 4', '{"global_step": 3}', "{}"])
def test_half_written_trainer_state_counts_as_missing(tmp_path: Path, text: str) -> None:
    torn = make_checkpoint(tmp_path, 4)
    (torn / "trainer_state.json").write_text(text, encoding="utf-8")
    assert missing_part(torn) == "trainer_state.json"


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
