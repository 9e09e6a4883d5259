"""``calibadv train`` up to the point where a model is loaded, and how its lines look."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.config import RunConfig
from calibadv.config.run_folder import claim_run_folder
from calibadv.runs.step_lines import StepLines


def settings(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a dry run prints."""
    assert main(["train", *arguments, "--dry-run"]) == 0
    return tomllib.loads(capsys.readouterr().out)


def test_a_dry_run_prints_what_differs_from_the_defaults(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = settings(capsys, str(config_file), "--set", "training.steps=6", "--set", "training.seed=0")
    assert printed["training"]["steps"] == 6
    assert "seed" not in printed["training"]
    assert "calibration" not in printed
    assert printed["retrieval"] == {"corpus": str(config_file.parent / "corpus.jsonl")}
    again = RunConfig.from_mapping(printed)
    assert again == RunConfig.read(config_file, overrides=["training.steps=6"])


def test_verbose_prints_every_setting(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = settings(capsys, str(config_file), "--verbose")
    assert printed["calibration"]["rebalance_coef"] == 1.0
    assert len(printed["training"]) > 20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=1", "training.stepz is not a setting; did you mean training.steps?"),
        ("training.steps=many", 'training.steps must be a whole number, got "many"'),
        ("calibration.rebalance_coef=-1.0", "calibration.rebalance_coef must be between 0.001 and 1000.0, got -1.0"),
        ("training.num_rollouts=1", "training.num_rollouts must be >= 2, got 1"),
        ("data.train=[]", "data.train is empty"),
        ("nonsense", "expected section.key=value"),
    ],
)
def test_bad_settings_stop_before_anything_is_written(
    config_file: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config_file), "--set", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ConfigError: ")
    assert message in error
    assert not (config_file.parent / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a config, such as configs/lab.toml"),
        (["absent.toml"], "absent.toml: no such file"),
        (["."], "is not a run's folder"),
        (["--resume", "absent"], "--resume absent: no such folder"),
    ],
)
def test_a_missing_config_is_a_clear_error(
    config_file: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_resumed_by_its_folder_alone_also_when_it_was_moved(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = claim_run_folder(RunConfig.read(config_file), resume=False)
    printed = settings(capsys, "--resume", "run", "--set", "training.steps=4")
    assert printed["training"]["output"] == str(folder)
    assert printed["training"]["steps"] == 4
    folder.rename(config_file.parent / "moved")
    assert settings(capsys, "--resume", "moved")["training"]["output"] == str(config_file.parent / "moved")


def test_resume_goes_with_a_config_too(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config_file.parent
    assert settings(capsys, str(config_file), "--resume")["training"]["output"] == str(output / "run")
    assert settings(capsys, str(config_file), "--resume", "other")["training"]["output"] == str(output / "other")


def test_lines_of_a_run_say_how_far_it_is_and_skip_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with StepLines(80, steps_per_batch=2) as show:
        show({"step": 2, "reward": 0.5, "f1": 0.25, "format_valid": 0.9, "entropy": None, "seconds_step": 3.0})
        show({"step": 4, "reward": 0.5, "kl": 0.00123, "seconds_step": 5.0})
        show({"step": 2, "questions": 10, "f1": 0.5, "em": 0.4, "f1_low": 0.3, "f1_high": 0.7})
        show({"step": 6, "reward": 0.0, "skipped_updates": 1})
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "step  2/80  reward 0.500  F1 0.250  format 90%  1:57 left",
        "step  4/80  reward 0.500  KL 0.0012  2:32 left",
        "step  2/80  evaluation: F1 0.500 [0.300, 0.700], EM 0.400",
        "step  6/80  reward 0.000",
        "  1 update(s) skipped: a gradient was not finite",
    ]


def test_a_line_with_every_figure_stays_under_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    figures = ("reward", "f1", "format_valid", "searches", "mispenalised_share", "entropy", "grad_norm")
    with StepLines(2050) as show:
        show({"step": 1, "seconds_step": 50.0, "groups_without_signal": 1.0, **dict.fromkeys(figures, 1.0)})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step    1/2050  reward 1.000  F1 1.000  format 100%")
    assert line.endswith("28:27:30 left")
    assert len(line) < 80


def test_a_terminal_gets_a_bar_below_the_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with StepLines(4) as show:
        show({"step": 2, "reward": 0.5, "seconds_step": 3.0})
    out = capsys.readouterr().out
    assert "reward 0.500" in out
    assert "2/4" in out
