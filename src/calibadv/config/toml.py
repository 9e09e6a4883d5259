"""From a mapping (TOML) to frozen dataclasses: unknown keys and wrong types are errors that name the key.

Nothing here knows a particular setting: the types and defaults are those of the dataclasses.
"""

from __future__ import annotations

import difflib
import enum
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

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


def build(cls: type[T], tables: Mapping[str, Any], *, where: str = "") -> T:
    """Make a dataclass from tables of `Value` leaves. ``where`` is the section's dotted name, for messages."""
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in tables:
        if key not in known:
            raise ConfigError(_unknown(key, known=known, hints=hints, where=where))
    missing = [name for name, field in known.items() if name not in tables and _required(field, hints[name])]
    if missing:
        names = ", ".join(_join(where, name) for name in missing)
        raise ConfigError(f"{names} {'is' if len(missing) == 1 else 'are'} missing; set it in the config or with --set")
    arguments = {}
    for name in known:
        hint, name_in_full = hints[name], _join(where, name)
        if is_dataclass(hint):
            table = tables.get(name, {})
            if not isinstance(table, Mapping):
                raise ConfigError(f"{name_in_full} must be a section, got {_show(table.value)}")
            arguments[name] = build(typing.cast(type[Any], hint), table, where=name_in_full)
        elif name in tables:
            arguments[name] = _convert(tables[name], hint, key=name_in_full)
    return cls(**arguments)


def _convert(value: Any, hint: Any, *, key: str) -> Any:
    if isinstance(value, Mapping):
        raise ConfigError(f"{key} must be {_expected(hint)}, got a section")
    raw, converted = value.value, MISSING
    if _wants_text(hint) and not isinstance(raw, str | list) and value.text is not None:
        raw = value.text  # --set model.path=7: the person typed a name, not a number
    try:
        converted = _fit(raw, hint, base=value.base)
    except KeyError as error:
        raise ConfigError(
            f"{key} = {_show(raw)} uses the environment variable {error.args[0]}, which is not set: "
            f"export it, or give --set {key}=..."
        ) from None
    if converted is MISSING:
        raise ConfigError(f"{key} must be {_expected(hint)}, got {_show(raw)}")
    return converted


def _fit(raw: Any, hint: Any, *, base: Path) -> Any:
    """``raw`` as the type ``hint``, or MISSING when it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and (raw is None or raw == "none"):
            return None
        if {Path, str} <= set(arguments):
            return _path_or_name(raw, base=base)
        options = (_fit(raw, argument, base=base) for argument in arguments if argument is not type(None))
        return next((option for option in options if option is not MISSING), MISSING)
    if origin is typing.Literal:
        return raw if any(raw == a and type(raw) is type(a) for a in arguments) else MISSING
    if origin is tuple:
        return _fit_tuple(raw, arguments, base=base)
    if hint is Path:
        return expand_path(raw, base=base) if isinstance(raw, str) and raw else MISSING
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return next((member for member in hint if member.value == raw), MISSING)
    if hint is float and type(raw) is int:
        return float(raw)
    return raw if type(raw) is hint else MISSING


def _fit_tuple(raw: Any, arguments: tuple[Any, ...], *, base: Path) -> Any:
    if not isinstance(raw, list):
        return MISSING
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(raw)
    if len(arguments) != len(raw):
        return MISSING
    converted = tuple(_fit(item, argument, base=base) for item, argument in zip(raw, arguments, strict=True))
    return MISSING if any(item is MISSING for item in converted) else converted


def expand_path(text: str, *, base: Path) -> Path:
    """``${VARIABLE}`` and ``~`` expanded, relative paths against ``base``. KeyError: the variable is not set."""
    text = _VARIABLE.sub(lambda match: os.environ[match[1]], text)
    return Path(os.path.normpath(base / Path(text).expanduser()))


def _path_or_name(raw: Any, *, base: Path) -> Any:
    """A path when it looks like one or exists; else the text itself (a hub id, ``package:...``)."""
    if not isinstance(raw, str) or not raw:
        return MISSING
    looks_like_a_path = raw.startswith((".", "/", "~", "${"))
    return expand_path(raw, base=base) if looks_like_a_path or (base / raw).exists() else raw


def _wants_text(hint: Any) -> bool:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return hint in (str, Path) or (is_union and any(_wants_text(a) for a in typing.get_args(hint)))


def _required(field: Field[Any], hint: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING and not is_dataclass(hint)


def _unknown(key: str, *, known: Iterable[str], hints: Mapping[str, Any], where: str) -> str:
    known = list(known)
    message = f"{_join(where, key)} is not a setting"
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"{message}; did you mean {_join(where, close[0])}?"
    inside = [name for name in known if is_dataclass(hints[name]) and key in typing.get_type_hints(hints[name])]
    if inside:
        return f"{message}; did you mean {_join(_join(where, inside[0]), key)}?"
    kind = "sections" if not where else f"settings of [{where}]"
    return f"{message}; the {kind} are {', '.join(known)}"


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys('"none"' if a is type(None) else _expected(a) for a in arguments))
    if origin is typing.Literal:
        return "one of " + ", ".join(_show(a) for a in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each item {_expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(_expected(a) for a in arguments)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(_show(member.value) for member in hint)
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path (a string)",
    }
    return names.get(hint, str(hint))


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
