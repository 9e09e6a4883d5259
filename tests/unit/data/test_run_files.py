"""The files in a run's folder."""

import json
from pathlib import Path

import pytest

from calibadv.data.run_files import (
    METRICS,
    checkpoint_folder,
    checkpoints,
    cut_metrics,
    is_run,
    read_metrics,
    trajectory_file,
    trajectory_files,
    trajectory_step,
)
from calibadv.errors import DataError


def test_a_folder_with_a_config_is_a_runs(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert is_run(tmp_path)


def test_checkpoints_come_newest_first(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint_folder(tmp_path, step).mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]


def test_files_of_rollouts_come_in_order_of_step_with_one_for_each_process(tmp_path: Path) -> None:
    paths = [trajectory_file(tmp_path, 2), trajectory_file(tmp_path, 10, rank=0), trajectory_file(tmp_path, 10, rank=1)]
    paths[0].parent.mkdir()
    for path in reversed(paths):
        path.write_text("")
    assert trajectory_files(tmp_path) == paths
    assert [trajectory_step(path) for path in paths] == [2, 10, 10]


def test_of_a_step_written_twice_the_last_row_counts_and_half_a_row_does_not(tmp_path: Path) -> None:
    rows = [{"step": 2, "f1": 0.1}, {"step": 1}, {"step": 2, "f1": 0.2}]
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "f')
    assert read_metrics(tmp_path / METRICS) == [{"step": 1}, {"step": 2, "f1": 0.2}]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_a_log_is_cut_after_a_step(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_metrics(tmp_path / METRICS, last_step=2)
    assert (tmp_path / METRICS).read_text() == '{"step":1}\n{"step":2}\n'
    cut_metrics(tmp_path / "absent.jsonl", last_step=2)
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_row_without_a_step_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2: .* whole number as `step`"):
        read_metrics(tmp_path / METRICS)
