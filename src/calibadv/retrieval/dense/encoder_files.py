"""Where a model's files are, and a cheap digest that tells one model from another."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, DataError

PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*_Transformer/*", "*_Pooling/*", "*_Dense/*")
"""What is fetched from a hub: configuration, tokenizer and safetensors, no pickled weights."""
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "vocab.bpe")
_WHOLE_FILE = 8 << 20
_SAMPLE = 1 << 20
_IDENTITY = (".json", ".txt", ".model", ".safetensors")
_NO_IDENTITY = frozenset({"data_config.json", "eval_results.json", "trainer_state.json", "training_args.json"})


def model_folder(model: str) -> Path:
    """The local folder of an encoder; a hub id is fetched (or found in the hub's cache) first."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise ConfigError(f"encoder.model {model}: the folder has no config.json; name the folder of a model")
        return folder
    if model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise ConfigError(f"encoder.model {model}: no such folder")
    return hub_folder(model, what=f"encoder.model {model}")


@functools.cache
def hub_folder(model: str, *, what: str, patterns: tuple[str, ...] = PATTERNS) -> Path:
    """The folder of a hub model's files, fetched or from the hub's cache; ``what`` names it in messages."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ConfigError(f"{what}: fetching it needs pip install 'calibadv[dense]'") from error
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises a dozen kinds, its HTTP client's among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{what}: no such folder here, and it could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason[:200]}); name a local folder, or fetch it on a machine with a hub "
            "(HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses the cache alone)"
        ) from error


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a vocabulary: transformers would make up an empty one and encode every text alike."""
    if not any(True for pattern in _TOKENIZERS for _ in folder.rglob(pattern)):
        raise ConfigError(
            f"encoder.model {folder}: no tokenizer there (tokenizer.json, vocab.txt or *.model); "
            "copy the tokenizer's files into the folder"
        )


def fingerprint(folder: Path) -> str:
    """Digest of configuration, tokenizer and weights: small files whole, of large ones the size and both ends."""
    digest = hashlib.sha256()
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _IDENTITY and path.is_file())
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.name in _NO_IDENTITY or any(
            part.startswith(".") or part in ("onnx", "openvino") for part in name.split("/")
        ):
            continue
        size = path.stat().st_size
        digest.update(f"{name}\n{size}\n".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_FILE:
                digest.update(file.read())
            else:
                digest.update(file.read(_SAMPLE))
                file.seek(-_SAMPLE, 2)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """A JSON object of a model's folder."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{what}: {path.name} cannot be read ({error}); fetch the model again") from error
    if not isinstance(record, dict):
        raise DataError(f"{what}: {path.name} is not an object; fetch the model again")
    return record
