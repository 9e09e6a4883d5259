"""Optional packages: whether they are there, said before work begins, with the command that installs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from calibadv import errors

_ROOT = Path(errors.__file__).parents[2]
"""The clone that this runs from, if it does (``src/calibadv/errors.py`` is two folders below it)."""


def require_packages(*modules: str, extra: str, what: str) -> None:
    """Say which pip command is missing, before anything is started.

    Args:
        modules: Names as they are imported.
        extra: The extra of this package that brings them.
        what: What needs them, for the message.

    Raises:
        ConfigError: At least one of them is not installed.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise errors.ConfigError(f"{what} needs {', '.join(missing)}, which is not installed: {install_command(extra)}")


def install_command(extra: str) -> str:
    """The command that installs an extra: from the clone where this runs from one, else by name."""
    if not (_ROOT / "pyproject.toml").is_file():
        return f"pip install 'calibadv[{extra}]'"
    place = "." if Path.cwd() == _ROOT else str(_ROOT)
    return f"pip install -e '{place}[{extra}]'"
