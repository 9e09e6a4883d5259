"""``calibadv lab`` and ``calibadv report``: what they hand on, and their errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.config import RunConfig
from calibadv.data.config import load_split
from calibadv.lab.arms import Arm
from calibadv.lab.config import LabConfig
from calibadv.lab.jobs import Job
from calibadv.lab.progress import figures_of, summary
from calibadv.retrieval.corpus.read import read_corpus


def test_a_world_is_written_as_files_that_a_run_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "world"
    assert main(["lab", "world", "--out", str(folder), "--size", "60", "--seed", "3"]) == 0
    corpus = read_corpus(folder / "corpus.jsonl")
    assert f"World 3: {len(corpus)} documents" in capsys.readouterr().out
    assert main(["lab", "world", "--out", str(folder)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


def test_the_labs_config_trains_on_that_world(tmp_path: Path) -> None:
    main(["lab", "world", "--out", str(tmp_path / "runs" / "world"), "--size", "60"])
    (tmp_path / "configs").mkdir()
    text = repository_config("lab.toml").read_text("utf-8")
    (tmp_path / "configs" / "lab.toml").write_text(text, "utf-8")
    config = RunConfig.read(tmp_path / "configs" / "lab.toml")
    config.check_trainable()
    assert load_split(config.data, "train")
    assert config.training.output == tmp_path / "runs" / "lab-run"


def test_the_real_input_config_reads_from_where_the_user_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIBADV_MINIWIKI", str(tmp_path))
    config = RunConfig.read(repository_config("smollm2-miniwiki.toml"))
    assert config.data.train[0] == tmp_path / "hotpotqa.train.jsonl"
    assert config.sft.traces[0] == tmp_path / "traces.jsonl.gz"
    assert config.retrieval.url is not None
    in_process = ["retrieval.url=none", f"retrieval.corpus={tmp_path / 'corpus.jsonl.gz'}"]
    config = RunConfig.read(repository_config("smollm2-miniwiki.toml"), overrides=in_process)
    assert config.retrieval.corpus == tmp_path / "corpus.jsonl.gz"
    assert (config.training.steps, config.training.questions_per_batch, config.training.num_rollouts) == (2, 4, 4)


def repository_config(name: str) -> Path:
    return Path(__file__).parents[3] / "configs" / name


@pytest.mark.parametrize(
    ("option", "value", "default"),
    [
        ("steps", "4", LabConfig().steps),
        ("seeds", "2", LabConfig().seeds),
        ("arms", "grpo,calibadv:lambda=0.5", LabConfig().arms),
        ("preset", "aggressive", "default"),
        ("world-size", "60", LabConfig().world_size),
        ("test-questions", "7", LabConfig().test_questions),
    ],
)
def test_options_reach_the_lab_and_may_not_contradict_one_that_is_resumed(
    tmp_path: Path, option: str, value: str, default: object, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"lab": {}}')
    assert main(["lab", "--resume", "--out", str(tmp_path), f"--{option}", value]) == 2
    assert f"the lab in {tmp_path} has --{option} {default}, not {value}" in capsys.readouterr().err


def test_the_result_of_a_lab_is_summed_up(tmp_path: Path) -> None:
    entry = {"f1_before": 0.4, "f1_after_se": 0.03, "seconds": 10.0, "collapsed": False, "status": "finished"}
    arms = [
        {"name": "grpo", "f1_after": 0.5, **entry},
        {"name": "calibadv", "f1_after": 0.6, **entry},
        {"name": "calibadv", "f1_after": 0.7, **entry, "collapsed": True},
    ]
    (tmp_path / "results.json").write_text(json.dumps({"arms": arms, "verdict": "No clear difference here."}))
    *table, _, verdict = summary(tmp_path).splitlines()
    rows = {line.split()[0]: line for line in table if line.startswith(("grpo", "calibadv "))}
    assert "0.400  0.500" in rows["grpo"]
    assert "± 0.030" in rows["grpo"]
    assert "0.600 0.700" in rows["calibadv"]
    assert "+0.250" in rows["calibadv"]
    assert "1 of 2" in rows["calibadv"]
    assert verdict == "No clear difference here."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "gentle"], 'Invalid value "gentle" for --preset. Choose from: "default", "aggressive"'),
        (["--arms", "ppo"], "--arms: 'ppo'"),
        (["--arms", "calibadv:lambda=-1"], "calibration.rebalance_coef must be between 0.001 and 1000.0"),
        (["pretrain", "--preset", "huge"], "--preset must be one of default, lab-large, got huge"),
        (["pretrain", "--out", "."], "--out . is not an empty folder; name a new one"),
        (["--out", "file"], "--out file is not an empty folder; name a new one"),
        (["--model", "absent"], "--model absent is not the folder of a policy: it has no config.json"),
        (["probe", "absent"], "POLICY absent is not the folder of a policy: it has no config.json"),
        (["world", "--out", "w", "--size", "3"], "world size must be >= 40"),
    ],
)
def test_bad_lab_options_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["lab", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_in_progress_is_a_few_words(tmp_path: Path) -> None:
    job = Job(arm=Arm.parse("grpo"), seed=0, folder=tmp_path, num_steps=4, reward=0.512)
    assert figures_of(job) == "reward 0.512"
    job.f1_test = 0.4
    assert figures_of(job) == "reward 0.512  test F1 0.400"


def test_a_report_needs_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "absent"]) == 2
    assert "absent: no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["report", "empty", "empty"]) == 2
    assert "several runs need --out DIR" in capsys.readouterr().err
