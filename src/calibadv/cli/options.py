"""Options of commands, derived from the config classes: type, default and help text are those of the fields."""

from __future__ import annotations

import functools
import inspect
import json
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from docstring_parser import parse_from_object

from calibadv.errors import ConfigError

if TYPE_CHECKING:
    from calibadv.config import RunConfig

WIDTH = 79
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

Overrides = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting; the value is TOML, plain words need no quotes (repeatable).",
        show_default=False,
    ),
]
Arm = Annotated[str | None, Parameter(help="Which arm, when the folder is that of a lab (default: calibadv).")]
Json = Annotated[bool, Parameter(help="Print JSON.", show_default=False)]
Verbose = Annotated[
    bool,
    Parameter(name=["--verbose", "-v"], help="Print every setting, not only the changed ones.", show_default=False),
]
Positive = PositiveInt | None
Files = Annotated[
    tuple[Path, ...], Parameter(consume_multiple=(1, None), show_default=False, help="One file or several.")
]


def separated_by_commas(hint: Any) -> Callable[..., Any]:
    """A converter from ``3,20`` or ``nq,hotpotqa`` to a tuple such as the hint says."""
    kind = typing.get_args(hint)[0]

    def convert(_: Any, tokens: Any) -> Any:
        given = tokens[-1].value  # of two --datasets the last counts
        parts = [part.strip() for part in given.split(",")]
        if not all(parts):
            raise ValueError(f"must be separated by commas, got {given!r}")
        return tuple(kind(part) for part in parts)

    return convert


Names = Annotated[
    tuple[str, ...], Parameter(converter=separated_by_commas(tuple[str, ...]), n_tokens=1, metavar="A,B,...")
]


def command(name: str, *, examples: str) -> App:
    """A command, or a group of commands; its help ends with ``examples``."""
    return App(name=name, help_epilogue=epilogue(examples))


def epilogue(examples: str, *, title: str = "examples") -> str:
    """The end of a help text: commands with what they do, then prose; it fits into 79 columns.

    >>> print(epilogue("  calibadv lab   a tiny agent\\n\\nIt takes minutes."))
    examples
      calibadv lab                          a tiny agent
    <BLANKLINE>
    It takes minutes.
    """
    commands, _, prose = examples.partition("\n\n")
    lines = [title]
    for line in commands.splitlines():
        text, _, comment = (part.strip() for part in line.strip().partition("  "))
        aligned = f"  {text:<36}  {comment}".rstrip()
        if len(aligned) <= WIDTH:
            lines.append(aligned)
            continue
        lines += [f"  # {comment}"] if comment else []
        parts = textwrap.wrap(text, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
        lines.append("  " + " \\\n      ".join(parts))
    paragraphs = [p if p.startswith(" ") or "\n " in p else textwrap.fill(p, WIDTH) for p in prose.split("\n\n") if p]
    return "\n\n".join(["\n".join(lines), *paragraphs]).rstrip() + "\n"


def takes(
    config: type,
    *names: str,
    skip: Sequence[str] = (),
    group: str | None = None,
    unset: bool = False,
    **renamed: str,
) -> Callable[[F], F]:
    """Give a command an option for each field of a config class; the function finds them in its ``**options``.

    Args:
        config: A dataclass with a docstring under each field.
        names: Only these fields. Empty: all.
        skip: Fields that are no options.
        group: Heading in the help.
        unset: What is not given is None, where the defaults are not those of the class.
        renamed: Field -> name of its option, where that is another one.
    """
    hints, helps = typing.get_type_hints(config), field_helps(config)
    made = {}
    for f in fields(config):
        if (not names or f.name in names) and f.name not in skip:
            hint, default = (hints[f.name] | None, None) if unset else (hints[f.name], _default(f))
            made[f.name] = _option(renamed.get(f.name, f.name), hint, default, helps.get(f.name), group)
    return lambda function: _with(function, made)


def takes_settings(settings: Mapping[str, str], *, group: str | None = None) -> Callable[[F], F]:
    """Give a command short options for settings of a run: option -> "section.key"; see `overrides_of`."""
    from calibadv.config import RunConfig

    sections = typing.get_type_hints(RunConfig)
    made = {}
    for name, dotted in settings.items():
        section, key = dotted.split(".")
        hint = typing.get_type_hints(sections[section])[key]
        text = f"{field_helps(sections[section]).get(key, '')} ({dotted})"
        made[name] = _option(name, hint | None, None, text, group)
    return lambda function: _with(function, made)


def fill(config: Callable[..., C], options: Mapping[str, Any], **fixed: Any) -> C:
    """The config that the options stand for; ``fixed`` are fields that are no options."""
    known = fields(config)  # type: ignore[arg-type]  # a dataclass, which Callable does not say
    return config(**({f.name: options[f.name] for f in known if f.name in options} | fixed))


def overrides_of(settings: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    """The short options that were given, as ``--set`` takes them."""
    from calibadv.runs.targets import as_toml

    return [f"{dotted}={as_toml(options[n])}" for n, dotted in settings.items() if options.get(n) is not None]


def field_helps(config: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, each on one line."""
    parsed = parse_from_object(config)
    return {p.arg_name: " ".join((p.description or "").replace("`", "").split()) for p in parsed.params}


def print_json(value: Any) -> None:
    """For ``--json``."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def show_settings(config: RunConfig, *, verbose: bool) -> None:
    """Print the settings; without ``verbose`` only those that differ from the defaults."""
    from calibadv.config.changes import changed_settings

    text = config.to_toml() if verbose else changed_settings(config) + "# everything else is the default (--verbose)\n"
    print(text, flush=True)


def check_new_folder(folder: Path | None) -> None:
    """Refuse an output folder that holds something already."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} is not an empty folder; name a new one")


def _option(name: str, hint: Any, default: Any, text: str | None, group: str | None) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    given: dict[str, Any] = {"name": flag, "help": text or None} | ({} if group is None else {"group": group})
    if default is True or (default is None and bool in typing.get_args(hint)):
        given["negative"] = f"--no-{flag[2:]}"
    unset: tuple[Any, ...] = (None, False, (), "", inspect.Parameter.empty)
    given["show_default"] = not any(default is value for value in unset)
    listed = next((a for a in (hint, *typing.get_args(hint)) if typing.get_origin(a) is tuple), None)
    if listed is not None:
        given |= {"converter": separated_by_commas(listed), "n_tokens": 1, "metavar": "A,B,..."}
        if given["show_default"]:
            given["show_default"] = lambda values: ",".join(map(str, values))
    annotation = Annotated[hint, Parameter(**given)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is MISSING else field.default_factory()


def _with(function: F, added: Mapping[str, inspect.Parameter]) -> F:
    """The function with more parameters in its signature; it takes them as ``**options``."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = {name: p for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD}
    every = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in own.values()]
    added = {name: parameter.replace(name=name) for name, parameter in added.items() if name not in own}
    every += added.values()
    every.sort(key=lambda p: p.kind)
    defaults = {name: p.default for name, p in added.items() if p.default is not inspect.Parameter.empty}

    @functools.wraps(function)
    def called(*positional: Any, **given: Any) -> Any:  # with what was given alone, as cyclopts calls it
        return function(*positional, **defaults | given)

    called.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in every} | {"return": hints.get("return")}
    return typing.cast(F, called)
