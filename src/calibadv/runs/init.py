"""The configs that come with calibadv, wherever it is installed: files to start a run of one's own from."""

from __future__ import annotations

from pathlib import Path

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
