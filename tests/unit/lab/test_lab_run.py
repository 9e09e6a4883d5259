from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from calibadv.advantage import CalibrationConfig
from calibadv.config import RunConfig
from calibadv.errors import CalibAdvError, ConfigError
from calibadv.lab import compare as lab_run
from calibadv.lab.arms import Arm, parse_arms
from calibadv.lab.compare import Job, LabRun, check_jobs, collapsed, lab_config, play, result_of, write_results

ROOT = Path(__file__).parents[3]


def config_of(arm: str, tmp_path: Path, lab: LabRun | None = None) -> object:
    return lab_config(lab or LabRun(), Arm.parse(arm), seed=3, world_dir=tmp_path / "world", folder=tmp_path / "run")


def test_arms_become_settings_of_the_run(tmp_path: Path) -> None:
    config = lab_config(
        LabRun(), Arm.parse("calibadv:lambda=0.5:lr=2e-4"), seed=3, world_dir=tmp_path, folder=tmp_path / "run"
    )
    assert config.calibration.rebalance_coef == 0.5
    assert config.training.learning_rate == 2e-4
    assert config.training.seed == 3
    grpo = lab_config(LabRun(), Arm.parse("grpo"), seed=0, world_dir=tmp_path, folder=tmp_path / "run")
    assert grpo.active_calibration == CalibrationConfig.plain()


def test_arms_whose_names_hold_dots_keep_their_files_apart(tmp_path: Path) -> None:
    jobs = [
        Job(arm=arm, seed=seed, folder=tmp_path / f"{arm.folder}-seed{seed}", num_steps=1)
        for arm in parse_arms("calibadv:lambda=0.25,calibadv:lambda=0.5:lr=7e-4,calibadv:lambda=0.5:lr=1e-3")
        for seed in range(2)
    ]
    assert len({path for job in jobs for path in (job.log, job.config, job.folder)}) == 18


def test_arms_differ_only_in_what_their_names_say(tmp_path: Path) -> None:
    grpo, calibadv = (
        lab_config(LabRun(), Arm.parse(arm), seed=0, world_dir=tmp_path, folder=tmp_path / "run").effective()
        for arm in ("grpo", "calibadv")
    )
    assert grpo.pop("algorithm") == {"name": "grpo"}
    assert calibadv.pop("algorithm") == {"name": "calibadv"}
    assert grpo == calibadv


def test_config_file_of_the_lab_has_the_settings_of_its_arms(tmp_path: Path) -> None:
    config = lab_config(LabRun(), Arm.parse("calibadv"), seed=0, world_dir=tmp_path, folder=tmp_path / "run")
    arm, file = config.effective(), RunConfig.read(ROOT / "configs" / "lab.toml").effective()
    for sections in (arm, file):
        for name in ("output", "save_every", "max_batches_without_signal"):
            del sections["training"][name]
    for section in ("rollout", "reward", "algorithm", "calibration", "training", "evaluation"):
        assert file[section] == arm[section]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("ppo", "must begin with one of grpo, calibadv"),
        ("calibadv:lambda", "not key=value"),
        ("calibadv:size=3", "not key=value"),
        ("grpo:lambda=0.5", "plain GRPO does not use"),
        ("grpo,grpo", "twice"),
    ],
)
def test_wrong_arms_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arms(text)


@pytest.mark.parametrize("arm", ["calibadv:lambda=0", "calibadv:lambda=-1", "calibadv:lambda=often", "grpo:loss=ppo"])
def test_settings_of_an_arm_are_checked_before_anything_runs(arm: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config_of(arm, tmp_path)


@pytest.mark.parametrize("field", ["steps", "seeds", "workers", "test_questions"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        LabRun(**{field: 0})


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="default, aggressive"):
        LabRun(preset="wild")


def test_steps_are_rounded_up_to_whole_batches(tmp_path: Path) -> None:
    lab = LabRun(preset="aggressive", steps=13)
    config = lab_config(lab, Arm.parse("grpo"), seed=0, world_dir=tmp_path, folder=tmp_path / "run")
    assert config.training.steps == 24


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        lab_run.run_lab(LabRun(out=tmp_path))


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


def jobs_that_run(code: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    real = lab_run.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        name = Path(command[-1]).stem
        return real([sys.executable, "-c", code[name], str(tmp_path / name)], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(lab_run.subprocess, "Popen", popen)
    return [Job(arm=Arm.parse("grpo"), seed=n, folder=tmp_path / name, num_steps=2) for n, name in enumerate(code)]


WRITES = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1]); run.mkdir()
lines = [{"step": s, "reward": s / 10, "f1": s / 10, "entropy": 1.0} for s in (1, 2)]
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines) + '{"step": 3, "rew')
evals = [{"step": s, "f1": f, "f1_se": 0.03, "format_valid": 0.9} for s, f in ((0, 0.4), (2, 0.7))]
(run / "eval.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in evals))
"""


def test_results_hold_what_each_run_wrote_torn_lines_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_that_run({"a": WRITES}, tmp_path, monkeypatch)
    play([job], workers=1, watch=None)
    result = result_of(job, tmp_path)
    assert json.loads(json.dumps(result)) == result
    assert (result["f1_before"], result["f1_after"]) == (0.4, 0.7)
    assert result["f1_curve"] == [0.1, 0.2]
    assert result["run_dir"] == "a"
    assert not result["collapsed"]


def test_failing_run_is_reported_with_its_log_after_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"bad": "raise SystemExit('the retriever is gone')", "good": WRITES}
    bad, good = jobs_that_run(code, tmp_path, monkeypatch)
    play([bad, good], workers=1, watch=None)
    results = json.loads(write_results(LabRun(), [bad, good], tmp_path).read_text())
    assert [arm["f1_after"] for arm in results["arms"]] == [0.7]
    assert results["failed_runs"] == [{"name": "grpo", "seed": 0, "log": "bad.log"}]
    with pytest.raises(CalibAdvError, match=r"1 of 2 runs failed[^!]*the retriever is gone"):
        check_jobs([bad, good])


@pytest.mark.parametrize("how", [KeyboardInterrupt, "SIGTERM"])
def test_interrupted_lab_leaves_no_run_behind(how: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slow,) = jobs_that_run({"slow": "import time; time.sleep(60)"}, tmp_path, monkeypatch)

    def watch(_jobs: object) -> None:
        if how == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play([slow], workers=1, watch=watch)
    assert slow.process is not None
    assert slow.process.poll() is not None


def test_one_step_is_enough_for_a_quick_look(tmp_path: Path) -> None:
    config = lab_config(LabRun(steps=1), Arm.parse("grpo"), seed=0, world_dir=tmp_path, folder=tmp_path / "run")
    assert config.training.steps == 2
    assert config.training.warmup_steps == 2
