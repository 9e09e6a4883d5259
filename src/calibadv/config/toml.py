"""From a mapping (TOML) to config classes: sections, paths, and "none" for what is not set.

Nothing here knows a particular setting: types, ranges and defaults are those of the classes, which check them.
"""

from __future__ import annotations

import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from calibadv.config_class import (
    FILE,
    alternatives,
    expected,
    item_types,
    join,
    may_name_file,
    show,
    type_hints,
    unknown_setting,
)
from calibadv.errors import ConfigError

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Value:
    """One value with where it came from."""

    value: Any
    base: Path
    """Folder that a relative path starts from: that of the file, or the working directory for an override."""
    text: str | None = None
    """As typed, when it came from ``--set``."""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as nested `Value` leaves."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a .toml config (configs/ has some to start from)") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name a .toml config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return with_base(tables, base=path.absolute().parent)


def with_base(tables: Mapping[str, Any], *, base: Path) -> dict[str, Any]:
    """Wrap every leaf of nested tables in a `Value`."""
    return {
        key: with_base(value, base=base) if isinstance(value, Mapping) else Value(value, base)
        for key, value in tables.items()
    }


def apply_override(tables: dict[str, Any], override: str, *, base: Path) -> None:
    """Put ``section.key=value`` into the tables. The value is TOML; what is not TOML is taken as a string.

    >>> tables = {}
    >>> apply_override(tables, "training.steps=3", base=Path("."))
    >>> apply_override(tables, "model.path=./base", base=Path("."))
    >>> tables["training"]["steps"].value, tables["model"]["path"].value
    (3, './base')
    """
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value, such as --set training.steps=10")
    text = text.strip()
    try:
        parsed = tomllib.loads(f"value = {text}")
        value = parsed["value"] if len(parsed) == 1 else text
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for depth, key in enumerate(keys[:-1], start=1):
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {'.'.join(keys[:depth])} is a value, not a section")
        table = inner
    if isinstance(value, Mapping):
        table[keys[-1]] = with_base(value, base=base)
    else:
        table[keys[-1]] = Value(value, base, text)


def build(cls: type[T], tables: Mapping[str, Any], *, where: str = "", root: type[Any] | None = None) -> T:
    """Make a config from tables of `Value` leaves.

    For messages, ``where`` is the section's dotted name and ``root`` the class of all sections.

    Types and ranges are checked by the class (`calibadv.config_class`).
    """
    hints = type_hints(cls)
    root = root or cls
    arguments = {}
    for name in tables:
        if name not in hints:
            raise ConfigError(unknown_setting(cls, name, where=where, root=root))
    for name, hint in hints.items():
        full_name = join(where, name)
        if is_dataclass(hint):
            table = tables.get(name, {})
            if not isinstance(table, Mapping):
                raise ConfigError(f"{full_name} must be a section, got {show(table.value)}")
            arguments[name] = build(typing.cast(type[Any], hint), table, where=full_name, root=root)
        elif name in tables:
            arguments[name] = _plain(tables[name], hint, key=full_name)
    return cls(**arguments)


def _plain(value: Any, hint: Any, *, key: str) -> Any:
    """What the config class is given for a `Value`: paths from their base, "none" as None."""
    if isinstance(value, Mapping):
        if not any(typing.get_origin(kind) is dict for kind in alternatives(hint)):
            raise ConfigError(f"{key} must be {expected(hint)}, got a section")
        return _unwrapped(value)
    raw, kinds = value.value, set(alternatives(hint))
    if kinds & {str, Path} and not isinstance(raw, str | list) and value.text is not None:
        raw = value.text  # --set model.path=7: the person typed a name, not a number
    if raw == "" and Path in kinds:
        raise ConfigError(f'{key} must be {expected(hint)}, got ""')
    if raw == "none" and type(None) in kinds:
        return None
    try:
        return _located(raw, hint, base=value.base)
    except KeyError as error:
        raise ConfigError(
            f"{key} = {show(raw)} uses the environment variable {error.args[0]}, which is not set: "
            f"export it, or give --set {key}=..."
        ) from None


def _unwrapped(value: Any) -> Any:
    """A table without what tells where its values came from."""
    return {key: _unwrapped(v) for key, v in value.items()} if isinstance(value, Mapping) else value.value


def _located(raw: Any, hint: Any, *, base: Path) -> Any:
    """Every text that the type takes for a path, as a path; so too inside of a list."""
    kinds = list(alternatives(hint))
    tuples = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if isinstance(raw, list) and tuples:
        items = item_types(tuples[0], len(raw))
        return [_located(item, kind, base=base) for item, kind in zip(raw, items, strict=False)] + raw[len(items) :]
    if isinstance(raw, str) and raw.startswith(FILE) and may_name_file(hint):
        return FILE + str(expand_path(raw.removeprefix(FILE), base=base))
    if not isinstance(raw, str) or not raw or Path not in kinds:
        return raw
    looks_like_a_path = raw.startswith((".", "/", "~", "${")) or str not in kinds
    # Else it may be a name as well: a hub id, ``package:...``
    return expand_path(raw, base=base) if looks_like_a_path or (base / raw).exists() else raw


def expand_path(text: str, *, base: Path) -> Path:
    """``${VARIABLE}`` and ``~`` expanded, relative paths against ``base``. KeyError: the variable is not set."""
    text = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    return Path(os.path.normpath(base / Path(text).expanduser()))
