"""The configs that come with calibadv, wherever it is installed: files to start a run of one's own from."""

from __future__ import annotations

import difflib
import re
import shutil
from pathlib import Path

from calibadv.errors import ConfigError

LAUNCH_FILE = re.compile(r"configs/((?:accelerate|slurm)/[\w.-]+\.(?:yaml|sbatch))")
"""How a config names a file beside it that starts it."""
_PACKAGE = Path(__file__).parents[1]


def packaged_configs() -> dict[str, Path]:
    """The shipped configs.

    Returns:
        File by name, in alphabetical order, such as ``{"lab": Path(".../configs/lab.toml")}``. An installed wheel has
        them inside the package; in a clone they are those of its ``configs/``.
    """
    in_wheel, in_clone = _PACKAGE / "configs", _PACKAGE.parents[1] / "configs"
    folder = in_wheel if in_wheel.is_dir() else in_clone
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def copy_config(name: str, *, out: Path = Path()) -> Path:
    """Copy a shipped config, and the files for accelerate and Slurm that its head names.

    Args:
        name: As in `packaged_configs`.
        out: Folder of the copy; files that are there already stay as they are.

    Returns:
        The copy.

    Raises:
        ConfigError: There is no config of that name, or a file of its name is there already.
    """
    configs, name = packaged_configs(), name.removesuffix(".toml")
    if name not in configs:
        close = difflib.get_close_matches(name, configs, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(configs)}"
        raise ConfigError(f"{name} is no config that comes with calibadv; {hint}")
    target = out / f"{name}.toml"
    if target.exists():
        raise ConfigError(f"{target} exists already; name another folder with --out, or remove it")
    text = configs[name].read_text(encoding="utf-8")
    for launch in sorted(set(LAUNCH_FILE.findall(text))):
        copy = out / launch
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copyfile(configs[name].parent / launch, copy)
    out.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def first_comment(path: Path) -> str:
    """What a config says about itself in its first line."""
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("# ").strip() for line in file if line.startswith("#")), "")
