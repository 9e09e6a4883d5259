"""A user's own objects, named by import path: ``"package.module:name"`` in a config, or the object itself in Python.

Five settings are doors: ``reward.function``, ``calibration.estimator``, ``retrieval.retriever``, ``model.engine`` and
``training.order``.
What is built in goes through the same doors, under a plain name.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calibadv.errors import CalibAdvError, ConfigError


def is_import_path(name: object) -> bool:
    """Whether a setting names an object outside of this package: it has a colon.

    >>> is_import_path("my_rewards:brevity"), is_import_path("outcome")
    (True, False)
    """
    return isinstance(name, str) and ":" in name


def resolve(named: Any, *, built_in: Mapping[str, Any], setting: str) -> Any:
    """What ``named`` is: a name of ``built_in``, an import path, or the object itself.

    Args:
        named: The value of the setting, or an object given in Python.
        built_in: Plain names and their objects.
        setting: The setting's dotted name, for messages.

    Raises:
        ConfigError: No such name, or nothing can be imported there.
    """
    if not isinstance(named, str):
        return named
    if is_import_path(named):
        return import_object(named, setting=setting)
    if named not in built_in:
        known = ", ".join((*built_in, '"package.module:name"'))
        raise ConfigError(f"{setting} must be one of {known}, got {named!r}")
    return built_in[named]


def import_object(path: str, *, setting: str) -> Any:
    """Import ``package.module:name``; the working directory counts as a place to import from.

    Raises:
        ConfigError: The path is no such path, its module cannot be imported, or has no such name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f'{setting} must be like "package.module:name", got {path!r}')
    here = str(Path.cwd())
    if here not in sys.path:  # console scripts leave it out; at the end, so that it hides no installed module
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{setting} {path!r}: cannot import {module_name} ({error}); start from the folder that holds it, or add "
            "that folder to PYTHONPATH"
        ) from error
    except Exception as error:  # whatever a user's module does while it is imported
        raise ConfigError(
            f"{setting} {path!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigError(f"{setting} {path!r}: the module {module_name} has no {name}") from None
    return found


def check_call(function: Any, *arguments: str, setting: str, wanted: str, keywords: tuple[str, ...] = ()) -> None:
    """Refuse what cannot be called with these positional arguments and keywords; ``wanted`` shows the signature."""
    if not callable(function):
        raise ConfigError(f"{setting} must be callable as {wanted}, got {type(function).__name__}")
    try:
        inspect.signature(function).bind(*arguments, **dict.fromkeys(keywords))
    except TypeError as error:
        raise ConfigError(f"{setting} must be callable as {wanted}; {name_of(function)}: {error}") from None
    except ValueError:  # written in C: it has no signature to look at
        return


def call(function: Callable[..., Any], *arguments: Any, setting: str, **keywords: Any) -> Any:
    """Call a user's function; what goes wrong inside of it becomes one line that names the setting and the place.

    Raises:
        ConfigError: It raised something; the cause is chained. Errors of this package pass through as they are.
    """
    try:
        return function(*arguments, **keywords)
    except CalibAdvError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{setting} {name_of(function)!r} raised {type(error).__name__}: {error} "
            f"({Path(place.filename).name}:{place.lineno}; CALIBADV_DEBUG=1 shows the traceback)"
        ) from error


def name_of(thing: Any) -> str:
    """The import path of a function, class or instance.

    >>> name_of(is_import_path)
    'calibadv.registry:is_import_path'
    """
    named: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"
