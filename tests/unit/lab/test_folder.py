"""A lab's folder: an older one moves aside, one lab at a time."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path

import pytest

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.lab.arms import Arm
from calibadv.lab.compare import run_lab
from calibadv.lab.config import LabConfig, arm_config
from calibadv.lab.folder import DEFAULT, free_name, locked, new_folder

DATE = datetime(2026, 11, 29, 2, 30)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def older_lab() -> Path:
    folder = DEFAULT / "calibadv-seed0"
    config = arm_config(LabConfig(), Arm.parse("calibadv"), seed=0, world_dir=DEFAULT / "world", folder=folder)
    folder.mkdir(parents=True)
    for path in (folder / "config.toml", DEFAULT / "calibadv-seed0.toml"):
        path.write_text(config.to_toml(), encoding="utf-8")
    os.utime(DEFAULT, (DATE.timestamp(), DATE.timestamp()))
    return DEFAULT


def test_the_first_lab_has_the_plain_name() -> None:
    assert new_folder(None) == Path("runs/lab")


def test_an_older_lab_moves_aside_with_its_date_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    older_lab()
    with caplog.at_level(logging.INFO):
        assert new_folder(None) == DEFAULT
    assert not DEFAULT.exists()
    assert caplog.messages == ["runs/lab holds an older run, which is now in runs/lab-20261129-023000"]


def test_runs_of_a_lab_that_moved_find_their_own_world() -> None:
    older_lab()
    new_folder(None)
    aside = Path("runs/lab-20261129-023000").absolute()
    for path in (aside / "calibadv-seed0" / "config.toml", aside / "calibadv-seed0.toml"):
        config = RunConfig.read(path)
        assert config.data.train == (aside / "world" / "questions.train.jsonl",)
        assert config.retrieval.corpus == aside / "world" / "corpus.jsonl"
        assert config.training.output == aside / "calibadv-seed0"


def test_two_labs_of_one_second_keep_apart(tmp_path: Path) -> None:
    for expected in ("lab-20261129-023000", "lab-20261129-023000-2", "lab-20261129-023000-3"):
        path = free_name(tmp_path / "lab", DATE)
        assert path.name == expected
        path.mkdir()


def test_a_folder_that_was_named_is_never_moved() -> None:
    older_lab()
    with pytest.raises(ConfigError, match="--out runs/lab is not an empty folder"):
        run_lab(LabConfig(out=DEFAULT))
    assert (DEFAULT / "calibadv-seed0").exists()


def test_wrong_settings_move_nothing() -> None:
    older_lab()
    for lab in (LabConfig(arms="calibadv:lambda=-1"), LabConfig(world_size=3)):
        with pytest.raises(ConfigError):
            run_lab(lab)
    assert (DEFAULT / "calibadv-seed0").exists()


def test_a_lab_that_still_runs_is_neither_moved_nor_resumed_beside_itself() -> None:
    older_lab()
    with locked(DEFAULT):
        with pytest.raises(ConfigError, match="a lab is still running in runs/lab"):
            new_folder(None)
        with pytest.raises(ConfigError, match="still running"), locked(DEFAULT):
            pass
    with locked(DEFAULT):
        pass
