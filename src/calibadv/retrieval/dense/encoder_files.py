"""Where the files of an encoder or a re-ranker are."""

from __future__ import annotations

import functools
from pathlib import Path

from calibadv.errors import ConfigError, DataError
from calibadv.io.hub import fetch_folder

PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*_Transformer/*", "*_Pooling/*", "*_Dense/*")
"""What is fetched from a hub: configuration, tokenizer and safetensors, no pickled weights."""
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "vocab.bpe")


def model_folder(model: str) -> Path:
    """The local folder of an encoder; a hub id is fetched (or found in the hub's cache) first."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise ConfigError(f"the encoder's model {model}: the folder has no config.json; name the folder of a model")
        return folder
    if model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise ConfigError(f"the encoder's model {model}: no such folder")
    return hub_folder(model, what=f"the encoder's model {model}")


@functools.cache
def hub_folder(model: str, *, what: str, patterns: tuple[str, ...] = PATTERNS) -> Path:
    """The folder of a hub model's files, fetched or from the hub's cache; ``what`` names it in messages."""
    try:
        return fetch_folder(model, kind="model", patterns=patterns)
    except DataError as error:
        raise ConfigError(f"{what}: no such folder here, and from the hub: {error}") from error


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a vocabulary: transformers would make up an empty one and encode every text alike."""
    if not any(True for pattern in _TOKENIZERS for _ in folder.rglob(pattern)):
        raise ConfigError(
            f"the encoder's model {folder}: no tokenizer there (tokenizer.json, vocab.txt or *.model); "
            "copy the tokenizer's files into the folder"
        )
