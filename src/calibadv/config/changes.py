"""Which settings of a run differ from their defaults."""

from __future__ import annotations

import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from calibadv.config.run_config import RunConfig


def changed_settings(config: RunConfig) -> str:
    """The lines of `RunConfig.to_toml` that differ from the defaults, without empty sections."""
    defaults = _defaults(RunConfig, section="")
    actual = _values(config, section="")
    shown, section = list[str](), ""
    for line in config.to_toml().splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
            shown.append(line)
            continue
        key = section + line.partition(" = ")[0]
        if line and (key not in defaults or defaults[key] != actual[key]):
            shown.append(line)
    kept = [line for n, line in enumerate(shown) if not line.startswith("[") or not _is_empty(shown[n + 1 : n + 2])]
    return "\n".join(("\n" if line.startswith("[") and n else "") + line for n, line in enumerate(kept)) + "\n"


def _is_empty(following: list[str]) -> bool:
    return not following or following[0].startswith("[")


def _defaults(config: type, *, section: str) -> dict[str, Any]:
    """Dotted name -> default, of the fields that have one."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config)
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            found |= _defaults(hints[field.name], section=f"{section}{field.name}.")
        elif field.default is not MISSING:
            found[section + field.name] = field.default
        elif field.default_factory is not MISSING:
            found[section + field.name] = field.default_factory()
    return found


def _values(config: Any, *, section: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= (
            _values(value, section=f"{section}{field.name}.") if is_dataclass(value) else {section + field.name: value}
        )
    return found
