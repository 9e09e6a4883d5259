"""One way to declare settings: `config_class` makes a frozen dataclass that checks types and ranges when it is made.

::

    @config_class("rollout")
    class RolloutConfig:
        top_k: PositiveInt = 3
        \"\"\"Documents per search.\"\"\"

``RolloutConfig(top_k=0)`` raises ``ConfigError: rollout.top_k must be >= 1, got 0``. pydantic checks, in strict mode (a
number is no string, true is no number); it is loaded when the first config is made, so that importing the classes is
quick. Two conveniences: a list is taken for a tuple, and a string for a path. Rules across fields belong into
``__post_init__``, which raises `ConfigError` itself.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Interval, MinLen

from calibadv.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, SchemaValidator

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about an impossible value, in the annotation of a setting; it ends the message."""

    text: str


@dataclass(frozen=True, slots=True)
class MayNameFile:
    """Annotates a string that may be ``file:PATH``; a relative path starts where those of the config do."""


FILE = "file:"

PositiveInt: TypeAlias = Annotated[int, Ge(1)]
Count: TypeAlias = Annotated[int, Ge(0)]
PositiveFloat: TypeAlias = Annotated[float, Gt(0)]
NonNegativeFloat: TypeAlias = Annotated[float, Ge(0)]
Fraction: TypeAlias = Annotated[float, Interval(ge=0, le=1)]
PositiveFraction: TypeAlias = Annotated[float, Interval(gt=0, le=1)]
Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what numpy takes
Port: TypeAlias = Annotated[int, Interval(ge=0, le=65_535)]
Name: TypeAlias = Annotated[str, MinLen(1)]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def config_class(section: str = "") -> Callable[[type[T]], type[T]]:
    """Make a frozen, keyword-only, slotted dataclass whose values are checked.

    Args:
        section: Where its settings stand in a run's configuration, such as ``"retrieval.rerank"``; messages name them
            in full. Empty for a class that only Python callers make: messages then name its arguments.

    Raises:
        ConfigError: (from the class) an unknown or missing setting, a wrong type, a value out of range; one line.

    >>> @config_class("oven")
    ... class OvenConfig:
    ...     degrees: Annotated[PositiveInt, Remedy("0 is off: leave the oven out")] = 180
    >>> OvenConfig(degrees=0)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: oven.degrees must be >= 1, got 0; 0 is off: leave the oven out
    >>> OvenConfig(degree=200)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: oven.degree is not a setting; did you mean oven.degrees?
    """

    def decorate(declared: type[T]) -> type[T]:
        made: type[Any] = dataclass(frozen=True, slots=True, kw_only=True)(declared)

        @functools.wraps(made.__init__)
        def checked_init(self: T, /, **settings: Any) -> None:
            _fill(made, self, settings)

        made.__init__ = checked_init
        made.__config_section__ = section
        return made

    return decorate


def section_of(cls: type[Any]) -> str:
    """The section that a config class was declared with."""
    section: str = cls.__config_section__
    return section


def _fill(cls: type[Any], instance: object, settings: dict[str, Any]) -> None:
    """Check the settings and put them into a new instance."""
    from pydantic import ValidationError
    from pydantic_core import ArgsKwargs

    hints = type_hints(cls)
    settings = {name: _adapted(value, hints[name]) if name in hints else value for name, value in settings.items()}
    try:
        _validator(cls).validate_python(ArgsKwargs((), settings), self_instance=instance)
    except ValidationError as error:
        raise _config_error(cls, error.errors(include_url=False), settings) from None


def _validator(cls: type[Any]) -> SchemaValidator:
    """Made when the first config of a class is, and kept."""
    if cls not in _VALIDATORS:
        from pydantic import ConfigDict, TypeAdapter

        cls.__pydantic_config__ = ConfigDict(
            strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
        )
        _VALIDATORS[cls] = typing.cast("SchemaValidator", TypeAdapter(cls).validator)
    return _VALIDATORS[cls]


_VALIDATORS: dict[type[Any], SchemaValidator] = {}


def type_hints(cls: type[Any]) -> dict[str, Any]:
    """The type of every field of a dataclass, with its range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def alternatives(hint: Any) -> Iterator[Any]:
    """The types of a union without their ranges: ``PositiveInt | None`` gives int and None's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from alternatives(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from alternatives(argument)
    else:
        yield hint


def item_types(hint: Any, count: int) -> list[Any]:
    """The types of the ``count`` items of a tuple type."""
    arguments = typing.get_args(hint)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * count
    return list(arguments)


def _adapted(value: Any, hint: Any) -> Any:
    """A list as the tuple, and a string as the path, that the type asks for."""
    kinds = list(alternatives(hint))
    tuples = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if isinstance(value, list | tuple) and tuples:
        items = item_types(tuples[0], len(value))
        adapted = (_adapted(item, kind) for item, kind in zip(value, items, strict=False))
        return tuple(adapted) if len(items) == len(value) else tuple(value)
    return Path(value) if isinstance(value, str) and value and Path in kinds and str not in kinds else value


def _config_error(cls: type[Any], errors: list[ErrorDetails], settings: dict[str, Any]) -> ConfigError:
    """What pydantic found, as one line; of several mistakes a missing setting comes first, then the first one."""
    section = section_of(cls)
    own = [e["ctx"]["error"] for e in errors if isinstance(e.get("ctx", {}).get("error"), ConfigError)]
    if own:
        return typing.cast(ConfigError, own[0])
    unknown = [str(e["loc"][0]) for e in errors if e["type"] == "unexpected_keyword_argument"]
    if unknown:
        return ConfigError(unknown_setting(cls, unknown[0], where=section))
    missing = [e["loc"][0] for e in errors if len(e["loc"]) == 1 and e["loc"][0] not in settings]
    if missing:
        return ConfigError(missing_settings(join(section, str(name)) for name in missing))
    name = str(errors[0]["loc"][0])
    hint, setting = type_hints(cls)[name], next(f for f in fields(cls) if f.name == name)
    wanted, remedy = _wanted(hint, {e["type"] for e in errors if e["loc"][0] == name})
    got = f", got {show(settings[name])}" if setting.repr else ""
    return ConfigError(f"{join(section, name)} must {wanted}{got}{remedy}")


def _wanted(hint: Any, kinds: set[str]) -> tuple[str, str]:
    """What a value of that type must do, and the remedy, by the kinds of pydantic's errors."""
    remedy = "".join(f"; {mark.text}" for mark in _metadata(hint) if isinstance(mark, Remedy))
    if kinds & {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return f"be {range_of(hint)}", remedy
    if kinds & {"too_short", "string_too_short"}:
        return "not be empty", remedy
    return ("be a finite number" if "finite_number" in kinds else f"be {expected(hint)}"), ""


def missing_settings(names: typing.Iterable[str]) -> str:
    """The message for settings that have no default and were not given."""
    names = list(names)
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} missing; set it in the config or with --set"


def unknown_setting(cls: type[Any], key: str, *, where: str, root: type[Any] | None = None) -> str:
    """The message for a setting that does not exist, with the one that was probably meant.

    Args:
        cls: The class of the section; its ``ALSO_CALLED`` holds names that others use for its settings.
        key: The name that was given.
        where: The section.
        root: The class of all sections, of which another may have a setting of that name.
    """
    hints = type_hints(cls)
    message = f"{join(where, key)} is not a setting"
    known_here = getattr(cls, "ALSO_CALLED", {}).get(key)
    elsewhere = [] if root is None or not where else list(_settings_called(key, root))
    if known_here or elsewhere:
        return f"{message}; did you mean {join(where, known_here) if known_here else ' or '.join(elsewhere)}?"
    close = difflib.get_close_matches(key, hints, n=1)
    if close:
        return f"{message}; did you mean {join(where, close[0])}?"
    inside = [name for name, hint in hints.items() if dataclasses.is_dataclass(hint) and key in type_hints(hint)]  # type: ignore[arg-type]
    if inside:
        return f"{message}; did you mean {join(join(where, inside[0]), key)}?"
    sections = all(dataclasses.is_dataclass(hint) for hint in hints.values())
    kind = f"settings of [{where}]" if where else "sections" if sections else "settings"
    return f"{message}; the {kind} are {', '.join(hints)}"


def _settings_called(key: str, cls: type[Any], *, where: str = "") -> Iterator[str]:
    """The dotted names of all settings of that name."""
    for name, hint in type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _settings_called(key, typing.cast(type[Any], hint), where=join(where, name))
        elif name == key:
            yield join(where, name)


def join(where: str, key: str) -> str:
    """The dotted name of a setting."""
    return f"{where}.{key}" if where else key


def expected(hint: Any) -> str:
    """A type as a person would write it.

    >>> expected(PositiveInt | None), expected(tuple[Path, ...])
    ('a whole number or "none"', 'a list, each item a path (a string)')
    """
    return " or ".join(dict.fromkeys(_expected(kind) for kind in alternatives(hint)))


def _expected(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(show, arguments))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each item {expected(arguments[0])}"
    if origin is dict:
        return "a table"
    if origin is tuple:
        return f"a list of {len(arguments)}: " + ", ".join(map(expected, arguments))
    words = {
        type(None): '"none"',
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path (a string)",
    }
    return words.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind))


def range_of(hint: Any) -> str:
    """The range in a type's annotations; empty where there is none.

    >>> range_of(PositiveInt | None), range_of(PositiveFraction), range_of(str)
    ('>= 1', 'in (0, 1]', '')
    """
    marks = list(_metadata(hint))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = {name: bound for mark in marks for name in signs if (bound := getattr(mark, name, None)) is not None}
    if len(bounds) == 2:
        low, high = bounds.values()
        if {"ge", "le"} == set(bounds):
            return f"between {low} and {high}"
        return f"in {'[' if 'ge' in bounds else '('}{low}, {high}{']' if 'le' in bounds else ')'}"
    return "".join(f"{signs[name]} {bound}" for name, bound in bounds.items())


def may_name_file(hint: Any) -> bool:
    """Whether a string of this type may be ``file:PATH``."""
    return any(isinstance(mark, MayNameFile) for mark in _metadata(hint))


def _metadata(hint: Any) -> Iterator[Any]:
    """Everything that annotates a type or a type inside it."""
    if typing.get_origin(hint) is Annotated:
        yield from hint.__metadata__
    if typing.get_origin(hint) is not typing.Literal:
        for argument in typing.get_args(hint):
            yield from _metadata(argument)


def show(value: Any) -> str:
    """A value as it is written in TOML.

    >>> show(True), show("x"), show((0.9, 1.0)), show(Path("a/b"))
    ('true', '"x"', '[0.9, 1.0]', '"a/b"')
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {show(item)}' for name, item in value.items())}}}"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)
