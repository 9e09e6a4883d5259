"""Loading a model with the libraries: on a device that is there, without their notes on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from calibadv.errors import ConfigError


def usable_device(device: str, *, setting: str) -> str:
    """The device to use for ``auto`` or a name; ConfigError when torch does not know it or it is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f'{setting} must be "auto", "cpu" or "cuda[:N]", got {device!r}') from error
    if named.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'{setting} is {device!r}, but no GPU can be used here; set it to "auto" or "cpu"')
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{setting} is {device!r}, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on")
    return device


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Loading a model without the library's progress bars and notes on the terminal."""
    from transformers.utils import logging as notes

    library: Any = notes
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
