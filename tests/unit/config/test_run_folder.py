"""The folder of a run must take files before anything slow begins; trying leaves nothing behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calibadv.config import RunConfig
from calibadv.config.run_folder import check_run_folder, claim_run_folder
from calibadv.errors import ConfigError


def config(output: Path) -> RunConfig:
    sections = {"model": {"path": "."}, "retrieval": {"corpus": "c.jsonl"}, "training": {"output": str(output)}}
    return RunConfig.from_mapping(sections)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_trying_the_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    check_run_folder(config(tmp_path / "a" / "b"), resume=False)
    assert list(tmp_path.iterdir()) == []
    claim_run_folder(config(tmp_path / "run"), resume=False)
    check_run_folder(config(tmp_path / "run"), resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("part", ["train", "sft"])
def test_a_full_disk_is_told_before_the_first_write(tmp_path: Path, part: str) -> None:
    setting = {"train": "training.output", "sft": "sft.output"}[part]
    with full_disk(1000), pytest.raises(ConfigError) as caught:
        check_run_folder(config(tmp_path / "run"), resume=False, part="train" if part == "train" else "sft")
    assert f"{setting} {tmp_path / 'run'}: nothing can be written there (" in str(caught.value)
    assert f"make room, or name another folder (--set {setting}=DIR)" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_filled_up_meanwhile_is_told_when_a_run_resumes(tmp_path: Path) -> None:
    claim_run_folder(config(tmp_path / "run"), resume=False)
    with full_disk(1000), pytest.raises(ConfigError, match="make room"):
        check_run_folder(config(tmp_path / "run"), resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.toml"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_name_that_is_too_long_is_told(tmp_path: Path, resume: bool) -> None:
    with pytest.raises(ConfigError, match=r"training.output .*: nothing can be written there \(File name too long\)"):
        check_run_folder(config(tmp_path / ("x" * 300)), resume=resume)


def test_a_folder_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"nothing can be written there \(Not a directory\); name another folder"):
        check_run_folder(config(tmp_path / "file" / "run"), resume=False)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="the system has no file system that even root cannot write")
def test_a_place_that_nobody_may_write_to_is_told() -> None:
    with pytest.raises(ConfigError, match=r"training.output /proc/run: nothing can be written there"):
        check_run_folder(config(Path("/proc/run")), resume=False)
