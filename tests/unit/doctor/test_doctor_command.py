"""``calibadv doctor`` as it is typed: exit codes, words for people, JSON for scripts, a probe of the lab's policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.lab import LabWorld
from calibadv.lab.questions import write_world


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., Any], write_toml: Callable[..., Path]
) -> Path:
    folder = tmp_path_factory.mktemp("world")
    sections = lab_run(
        folder,
        data={"test": [str(folder / "questions.test.jsonl")]},
        rollout={"max_turn_tokens": 60, "max_observation_tokens": 100},
        training={"steps": 4, "questions_per_batch": 4, "output": str(folder / "run")},
    )
    write_toml(folder / "run.toml", sections)
    return folder


def doctor(world: Path, *arguments: str) -> int:
    return main(["doctor", str(world / "run.toml"), *arguments])


def test_a_run_that_can_start_is_told_so_with_its_settings(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(world) == 0
    out = capsys.readouterr().out
    assert "questions_per_batch = 4" in out
    for name in ("settings", "data.train", "tags", "context", "memory", "disk", "retriever", "index"):
        assert f"  {name} " in out
    assert out.rstrip().endswith("first.") or out.rstrip().endswith("Nothing stands in the way of this run.")
    assert not (world / "run").exists(), "the doctor leaves nothing behind"


def test_the_lab_s_own_config_earns_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "configs" / "lab.toml"
    config.parent.mkdir()
    shutil.copy(Path(__file__).parents[3] / "configs" / "lab.toml", config)
    write_world(LabWorld.make(1001), tmp_path / "runs" / "world")
    assert main(["doctor", str(config), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks if check["level"] != "ok"] == []
    assert {"tags", "context", "memory", "retriever"} <= {check["name"] for check in checks}


def test_a_probe_plays_questions_and_judges_the_signal(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(world, "--probe", "4", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in result["checks"]}
    facts = checks["signal"]["facts"]
    assert facts["questions"] == 4
    assert facts["rollouts"] == 20
    assert 0 <= facts["reward"] <= 1
    assert facts["reward_variance"] >= 0
    assert facts["format_valid"] > 0.3, "the lab's policy knows the tags"
    assert 0 <= facts["retrieval_hit_rate"] <= 1
    assert result["config"]["training"]["questions_per_batch"] == 4
    memory = [check for check in result["checks"] if check["name"] == "memory"]
    assert "typical" in memory[0]["summary"]
    assert "measured" in memory[1]["summary"]


@pytest.mark.parametrize(
    ("override", "name", "words"),
    [
        ("model.path=./absent", "settings", "no such model folder"),
        ('data.train=["absent.jsonl"]', "data", "no such file"),
        ("retrieval.corpus=absent.jsonl", "retriever", "absent.jsonl"),
        ("training.questions_per_batch=4000", "data.train", "lower it, or give more questions"),
        ("rollout.temperature=0", "settings", "must be > 0 for training"),
    ],
)
def test_what_would_stop_the_run_is_a_blocker_and_exit_code_1(
    world: Path, override: str, name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(world, "--set", override) == 1
    captured = capsys.readouterr()
    assert any(line.startswith(f"BLOCKER  {name}") for line in captured.out.splitlines())
    assert words in " ".join(captured.out.split())
    assert captured.err.startswith("Blocked: ") or "Blocked: " in captured.err
    assert "Traceback" not in captured.err


def test_a_server_that_is_away_is_a_blocker_within_seconds(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--set", "retrieval.corpus=none", "--set", "retrieval.url=http://127.0.0.1:9", "--json"]
    assert doctor(world, *arguments) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    (away,) = [check for check in checks if check["name"] == "retriever"]
    assert away["level"] == "blocker"
    assert "127.0.0.1:9" in away["summary"]
    assert away["remedy"] == "start it, or fix retrieval.url"


def test_an_index_that_is_not_there_is_no_server_to_be_started(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(world, "--set", "retrieval.corpus=none", "--set", "retrieval.index=absent") == 1
    captured = capsys.readouterr()
    assert "start it" not in captured.out
    assert "make an index: calibadv index build" in captured.err


def test_unknown_settings_are_errors_with_a_guess(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(world, "--set", "training.stepz=3") == 2
    assert "did you mean training.steps?" in capsys.readouterr().err
