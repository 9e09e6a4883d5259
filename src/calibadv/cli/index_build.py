"""``calibadv index build``, ``info`` and ``verify``."""

from __future__ import annotations

from typing import Any


def add_tools(tools: Any) -> None:
    """Add the tools of this module to ``calibadv index``."""
