"""Reading run folders and lab results."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from calibadv.errors import DataError
from calibadv.report.read_runs import arms_of, read_arms, read_lab, read_run


def write_lines(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_rows_come_in_order_of_step_and_the_last_writing_of_a_step_counts(tmp_path: Path) -> None:
    run = read_run(
        write_lines(tmp_path / "a", '{"step": 2, "f1": 0.1}', '{"step": 1, "f1": 0.5}', '{"step": 2, "f1": 0.7}')
    )
    steps, values = run.series("f1")
    assert steps.tolist() == [1, 2]
    assert values.tolist() == [0.5, 0.7]


def test_values_that_are_missing_or_not_finite_are_left_out(tmp_path: Path) -> None:
    lines = ['{"step": 1, "f1": NaN}', '{"step": 2}', '{"step": 3, "f1": null}', '{"step": 4, "f1": 0.25}']
    steps, _ = read_run(write_lines(tmp_path / "a", *lines)).series("f1")
    assert steps.tolist() == [4]


def test_a_last_line_torn_by_a_crash_is_left_out(tmp_path: Path) -> None:
    assert len(read_run(write_lines(tmp_path / "a", '{"step": 1}', '{"step": 2, "f')).rows) == 1


def test_a_broken_line_elsewhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: not valid JSON"):
        read_run(write_lines(tmp_path / "a", '{"st', '{"step": 2}'))


def test_metrics_that_are_not_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:1: .*'utf-8' codec"):
        read_run(tmp_path)


def test_a_line_without_a_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: .*`step`"):
        read_run(write_lines(tmp_path / "a", '{"step": 1}', '{"f1": 1}', '{"step": 3}'))


def test_a_folder_without_metrics_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run folder"):
        read_run(tmp_path)


def test_no_folder_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no run folder"):
        arms_of([])


def test_folders_of_one_name_are_told_apart_by_their_parent(tmp_path: Path) -> None:
    folders = [write_lines(tmp_path / parent / "run", '{"step": 1}') for parent in ("a", "b")]
    assert [arm.name for arm in arms_of(folders)] == ["a/run", "b/run"]


def test_entries_of_one_name_are_seeds_of_one_arm(make_lab: Callable[..., Path]) -> None:
    arms = read_lab(make_lab({"grpo": 0.1, "calibadv": 0.3}))
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("grpo", 3), ("calibadv", 3)]
    assert all(len(run.rows) == 12 for arm in arms for run in arm.runs)


def test_a_lab_whose_run_folders_are_gone_keeps_the_curves_of_its_results(tmp_path: Path) -> None:
    entry = {"name": "grpo", "f1_before": 0.3, "f1_after": 0.5, "f1_curve": [0.3, 0.4], "run_dir": "gone"}
    (tmp_path / "results.json").write_text(json.dumps({"arms": [entry]}), encoding="utf-8")
    run = read_arms(tmp_path)[0].runs[0]
    assert run.series("f1")[1].tolist() == [0.3, 0.4]
    assert run.series("entropy")[1].tolist() == []


def test_curves_of_results_stand_at_their_steps(tmp_path: Path) -> None:
    entry = {"name": "grpo", "f1_curve": [0.3, 0.4], "steps": [12, 24]}
    (tmp_path / "results.json").write_text(json.dumps({"arms": [entry]}), encoding="utf-8")
    assert read_arms(tmp_path)[0].runs[0].series("f1")[0].tolist() == [12, 24]


def test_evaluations_are_asked_for_with_a_prefix(make_run: Callable[..., Path]) -> None:
    steps, values = read_run(make_run(num_steps=10, gain=0.4)).series("test_f1")
    assert steps.tolist() == [0, 10]
    assert values.tolist() == [0.3, 0.7]


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "not json", '{"arms": []}', '{"arms": 5}', '{"arms": [{"seed": 1}]}', '{"arms": ["grpo"]}'],
)
def test_results_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.json"):
        read_lab(tmp_path)


def test_missing_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_lab(tmp_path / "results.json")
