"""Optional packages: whether they are there, said before work begins, with the command that installs them."""

from __future__ import annotations

import importlib.util

from calibadv.errors import ConfigError


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
        raise ConfigError(f"{what} needs {', '.join(missing)}, which is not installed: pip install 'calibadv[{extra}]'")
