"""``calibadv train`` up to the point where torch is needed, and how its lines look."""

import tomllib

import pytest

from calibadv.cli.main import main
from calibadv.cli.train import config_of, show_line
from calibadv.config import RunConfig
from calibadv.config.run_folder import claim_run_folder


class Arguments:
    def __init__(self, config=None, resume=False, overrides=()):
        self.config, self.resume, self.overrides = config, resume, list(overrides)


def test_dry_run_prints_every_effective_setting(config_file, capsys):
    assert main(["train", str(config_file), "--set", "training.steps=6", "--dry-run"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["training"]["steps"] == 6
    assert printed["calibration"]["rebalance_coef"] == 1.0
    assert printed["retrieval"]["corpus"] == str(config_file.parent / "corpus.jsonl")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=1", "training.stepz is not a setting; did you mean training.steps?"),
        ("training.steps=many", 'training.steps must be a whole number, got "many"'),
        ("calibration.rebalance_coef=-1.0", "calibration.rebalance_coef must be > 0, got -1.0"),
        ("training.num_rollouts=1", "training.num_rollouts must be >= 2, got 1"),
        ("data.train=[]", "data.train is empty"),
        ("nonsense", "expected section.key=value"),
    ],
)
def test_bad_settings_stop_before_anything_is_written(config_file, override, message, capsys):
    assert main(["train", str(config_file), "--set", override]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ConfigError: ")
    assert message in captured.err
    assert not (config_file.parent / "run").exists()


def test_a_missing_config_is_a_clear_error(config_file, capsys):
    assert main(["train"]) == 2
    assert "name a config, such as configs/lab.toml" in capsys.readouterr().err
    assert main(["train", "absent.toml"]) == 2
    assert "absent.toml: no such file" in capsys.readouterr().err
    assert main(["train", str(config_file.parent)]) == 2
    assert "is not a run's folder" in capsys.readouterr().err


def test_a_run_is_resumed_by_its_folder_alone(config_file):
    folder = claim_run_folder(RunConfig.read(config_file), resume=False)
    config, resume = config_of(Arguments(resume="run", overrides=["training.steps=4"]))
    assert resume
    assert config.training.output == folder
    assert config.training.steps == 4
    assert config.model.path == config_file.parent / "model"


def test_a_run_that_was_moved_is_resumed_where_it_is(config_file):
    claim_run_folder(RunConfig.read(config_file), resume=False).rename(config_file.parent / "moved")
    config, _ = config_of(Arguments(resume="moved"))
    assert config.training.output == config_file.parent / "moved"


def test_resume_goes_with_a_config_too(config_file):
    config, resume = config_of(Arguments(config=config_file, resume=True))
    assert resume
    assert config.training.output == config_file.parent / "run"
    config, resume = config_of(Arguments(config=config_file, resume="other"))
    assert resume
    assert config.training.output == config_file.parent / "other"
    assert config_of(Arguments(config=config_file))[1] is False


def test_lines_of_metrics_and_evaluations_are_short_and_skip_what_is_missing(capsys):
    show_line({"step": 2, "reward": 0.5, "f1": 0.25, "format_valid": 0.9, "entropy": None, "seconds_step": 3.21})
    show_line({"step": 2, "questions": 10, "f1": 0.5, "em": 0.4, "f1_low": 0.3, "f1_high": 0.7})
    show_line({"step": 3, "reward": 0.0, "skipped_updates": 1})
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "step    2  reward 0.500  F1 0.250  format 90%  3.2 s",
        "step    2  evaluation: F1 0.500 [0.300, 0.700], EM 0.400",
        "step    3  reward 0.000",
    ]
    assert "1 update(s) skipped: a gradient was not finite" in captured.err
