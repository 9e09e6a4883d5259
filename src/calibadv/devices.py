"""Loading a model with the libraries: on a device that is there, without their notes on the terminal."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from calibadv.errors import ConfigError, first_line


def usable_device(name: str, *, setting: str) -> str:
    """The torch device to use: "auto" takes an accelerator where there is one. ConfigError when it is not there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'{setting} must be "auto", "cpu" or "cuda[:N]", got {name!r}') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'{setting} is {name!r}, but no GPU can be used here; set it to "auto" or "cpu"')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{setting} is {name!r}, but there are {torch.cuda.device_count()} GPUs, from cuda:0 on")
    if device.type != "cuda":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f'{setting} is {name!r}, which cannot be used ({first_line(error)}); try "cpu"'
            ) from error
    return name


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Loading a model without the notes of transformers on the terminal, and without its progress bars."""
    from transformers.utils import logging as notes

    library: Any = notes
    verbosity = library.get_verbosity()
    library.set_verbosity_error()
    try:
        with without_progress_bars():
            yield
    finally:
        library.set_verbosity(verbosity)


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as notes

    progress: Any = notes
    gguf: Any = modeling_gguf_pytorch_utils  # draws a bar of its own, which the switch of transformers does not reach
    enabled, gguf_bar = progress.is_progress_bar_enabled(), gguf.tqdm
    progress.disable_progress_bar()
    gguf.tqdm = functools.partial(gguf_bar, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = gguf_bar
        if enabled:
            progress.enable_progress_bar()
