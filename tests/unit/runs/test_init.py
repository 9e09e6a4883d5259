"""`copy_config`: a config that ships, and the files that start it."""

from pathlib import Path

import pytest

from calibadv.errors import ConfigError
from calibadv.runs.init import copy_config, packaged_configs


def test_a_config_comes_with_the_files_that_its_head_starts_it_with(tmp_path: Path) -> None:
    target = copy_config("qwen2.5-7b", out=tmp_path / "configs")
    assert target == tmp_path / "configs" / "qwen2.5-7b.toml"
    copied = {path.relative_to(target.parent).as_posix() for path in target.parent.rglob("*") if path.is_file()}
    assert copied == {target.name, "accelerate/fsdp2.yaml", "slurm/train.sbatch", "slurm/retriever.sbatch"}
    shipped = packaged_configs()["qwen2.5-7b"].parent
    assert all((target.parent / name).read_bytes() == (shipped / name).read_bytes() for name in copied)


def test_a_config_that_names_none_comes_alone_and_files_that_are_there_stay(tmp_path: Path) -> None:
    copy_config("lab", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lab.toml"]
    (tmp_path / "accelerate").mkdir()
    mine = tmp_path / "accelerate" / "fsdp2.yaml"
    mine.write_text("mine")
    copy_config("qwen2.5-3b", out=tmp_path)
    assert mine.read_text() == "mine"


def test_a_config_is_never_overwritten(tmp_path: Path) -> None:
    copy_config("lab", out=tmp_path)
    with pytest.raises(ConfigError, match=r"lab\.toml exists already; name another folder with --out"):
        copy_config("lab", out=tmp_path)
    with pytest.raises(ConfigError, match="did you mean lab"):
        copy_config("labb", out=tmp_path)
