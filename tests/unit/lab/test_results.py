"""What a lab's results.json tells: from the start, after an interruption, at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.io.files import read_json
from calibadv.lab.arms import Arm
from calibadv.lab.config import LabConfig
from calibadv.lab.jobs import Job
from calibadv.lab.results import collapsed, recorded_config, write_results
from calibadv.report.read_runs import read_arms


def job(out: Path, name: str) -> Job:
    arm = Arm.parse(name)
    return Job(arm=arm, seed=0, folder=out / f"{arm.folder}-seed0", num_steps=2)


def finish(job: Job, *, after: list[float]) -> None:
    (job.folder / "model").mkdir(parents=True)
    rows = [{"step": s, "reward": s / 10, "f1": s / 10, "entropy": 1.0, "seconds_step": 2.0} for s in (1, 2)]
    tests = [
        {"step": s, "f1": sum(f) / 4, "f1_se": 0.03, "format_valid": 0.9, "seconds": 1.0, "f1_by_question": f}
        for s, f in ((0, [0.0, 0.0, 0.0, 1.0]), (2, after))
    ]
    for file, lines in (("metrics.jsonl", rows), ("eval.jsonl", tests)):
        (job.folder / file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def written(jobs: list[Job], out: Path, lab: LabConfig | None = None) -> dict[str, Any]:
    write_results(lab or LabConfig(), jobs, out)
    results: dict[str, Any] = read_json(out / "results.json")
    return results


def test_a_lab_that_has_begun_names_its_runs_and_the_arm_to_look_at(tmp_path: Path) -> None:
    results = written([job(tmp_path, "grpo"), job(tmp_path, "calibadv:lambda=0.5")], tmp_path)
    assert results["default_arm"] == "calibadv:lambda=0.5"
    assert [(arm["name"], arm["seed"], arm["run_dir"], arm["status"]) for arm in results["arms"]] == [
        ("grpo", 0, "grpo-seed0", "unfinished"),
        ("calibadv:lambda=0.5", 0, "calibadv-lambda=0.5-seed0", "unfinished"),
    ]
    assert results["versions"].keys() >= {"calibadv", "torch", "transformers", "trl"}
    assert results["verdict"] == "Without figures: grpo seed 0, calibadv:lambda=0.5 seed 0."


def test_finished_runs_have_their_figures_and_the_others_are_named(tmp_path: Path) -> None:
    grpo, calibadv = job(tmp_path, "grpo"), job(tmp_path, "calibadv")
    finish(grpo, after=[0.5, 1.0, 0.5, 1.0])
    results = written([grpo, calibadv], tmp_path)
    entry = results["arms"][0]
    assert (entry["f1_before"], entry["f1_after"], entry["f1_curve"], entry["steps"]) == (
        0.25,
        0.75,
        [0.1, 0.2],
        [1, 2],
    )
    assert (entry["seconds"], entry["collapsed"], entry["status"]) == (5.0, False, "finished")
    assert results["verdict"].startswith("grpo: +0.500 ± ")
    assert results["verdict"].endswith("Without figures: calibadv seed 0.")


def test_arms_are_compared_question_by_question(tmp_path: Path) -> None:
    grpo, calibadv = job(tmp_path, "grpo"), job(tmp_path, "calibadv")
    finish(grpo, after=[0.0, 0.2, 0.4, 0.6])
    finish(calibadv, after=[0.4, 0.6, 0.8, 1.0])
    # Every question gained the same: no question could have told otherwise, however different the questions are.
    assert "calibadv ends above grpo: +0.400 ± 0.000 F1 (1 seed)" in written([grpo, calibadv], tmp_path)["verdict"]


def test_an_arm_that_asks_other_questions_is_not_compared(tmp_path: Path) -> None:
    grpo, other = job(tmp_path, "grpo"), job(tmp_path, "calibadv:evaluation.limit=4")
    for run in (grpo, other):
        finish(run, after=[0.5, 1.0, 0.5, 1.0])
    assert "cannot be compared" in written([grpo, other], tmp_path)["verdict"]


def test_an_interrupted_lab_can_be_read_by_the_report(tmp_path: Path) -> None:
    grpo, calibadv = job(tmp_path, "grpo"), job(tmp_path, "calibadv")
    finish(grpo, after=[0.5, 1.0, 0.5, 1.0])
    written([grpo, calibadv], tmp_path)
    arms = read_arms(tmp_path)
    assert [(arm.name, len(arm.runs[0].rows)) for arm in arms] == [("grpo", 2), ("calibadv", 0)]


def test_a_resumed_lab_has_its_own_settings(tmp_path: Path) -> None:
    lab = LabConfig(preset="aggressive", steps=24, arms="grpo", seeds=2)
    written([job(tmp_path, "grpo")], tmp_path, lab)
    resumed = recorded_config(tmp_path, LabConfig(workers=1))
    assert (resumed.preset, resumed.steps, resumed.arms, resumed.seeds) == ("aggressive", 24, "grpo", 2)
    assert (resumed.workers, resumed.out) == (1, tmp_path)
    assert recorded_config(tmp_path, LabConfig(steps=24)) == recorded_config(tmp_path, LabConfig())
    with pytest.raises(ConfigError, match=r"has --steps 24, not 12"):
        recorded_config(tmp_path, LabConfig(steps=12))


@pytest.mark.parametrize("text", [None, "not json", "{}", '{"format": 1, "arms": []}'])
def test_only_a_lab_can_be_resumed(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no lab"):
        recorded_config(tmp_path, LabConfig())


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.5] * 30, False),
        ([0.5] * 10 + [0.8] * 10 + [0.5] * 10, False),
        ([0.5] * 10 + [0.8] * 10 + [0.3] * 10, True),
        ([0.6] * 20 + [0.0] * 10, True),
        ([0.0] * 20, False),
        ([0.4, 0.1], True),
        ([], False),
    ],
)
def test_collapse_is_an_end_below_half_of_the_best(curve: list[float], expected: bool) -> None:
    assert collapsed(curve) is expected
