"""Loading a causal language model with its tokenizer: a folder, a hub id, a GGUF file, or a Python package's model.

The module itself is light (the [model] section needs it); torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig as ModelConfig
from calibadv.models.lora import ADAPTER_CONFIG, base_of_adapter, with_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv.rollout.policies.transformers import TransformersPolicy

logger = logging.getLogger(__name__)

PACKAGE = "package:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
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
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(f"loading a model needs torch and transformers ({error}): {INSTALL_TRAIN}") from error
    device = resolve_device(config.device)
    tokenizer = load_tokenizer(config)
    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with explained(config, source), without_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(source.name, dtype=getattr(torch, config.dtype), **extra)
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
    return model.to(device).eval(), tokenizer


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer alone; it has a pad token."""
    source = resolve_model(config)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(f"loading a tokenizer needs transformers ({error}): {INSTALL_TRAIN}") from error
    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with explained(config, source, what="its tokenizer cannot be loaded"), without_progress_bars():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.name, **extra)
    _prepare_tokenizer(tokenizer, config)
    return tokenizer


INSTALL_TRAIN = "pip install 'calibadv[train]'"


def load_policy(
    config: ModelConfig, *, threads: int | None = None
) -> tuple[TransformersPolicy, PreTrainedTokenizerBase]:
    """A policy that generates with the model, and the tokenizer; ``threads`` limits torch's CPU threads."""
    model, tokenizer = load_model(config)
    import torch

    from calibadv.rollout.policies.transformers import DEFAULT_ROWS, TransformersPolicy

    if threads is not None:
        torch.set_num_threads(threads)
    return TransformersPolicy(
        model, tokenizer, max_rows=config.max_rows or DEFAULT_ROWS, max_context=config.max_context
    ), tokenizer


def fingerprint(config: ModelConfig) -> dict[str, str]:
    """What identifies the model: name and digest of its files, or the commit of a hub id."""
    source = resolve_model(config)
    if not source.is_local:
        from transformers import AutoConfig

        with explained(config, source):
            commit = getattr(AutoConfig.from_pretrained(source.name), "_commit_hash", None)
        return {"name": source.name, "commit": str(commit)}
    patterns = (source.gguf_file,) if source.gguf_file else ("*.safetensors", "*.bin", "config.json", "tokenizer.json")
    files = sorted({path for pattern in patterns for path in Path(source.name).glob(pattern)})
    if source.adapter is not None:
        files += sorted(source.adapter.glob("adapter_*"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return {"name": str(config.path), "sha256": digest.hexdigest()}


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


def resolve_device(name: str) -> Any:
    """The torch device that ``model.device`` names; "auto" takes an accelerator where there is one."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(0, device=name)  # also fails for a device that is known but absent
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f'model.device "{name}" cannot be used ({reason}); try "auto" or "cpu"') from error


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
    except ImportError as error:
        raise ConfigError(f"model.path {config.path}: {_first_line(error)}; {INSTALL_TRAIN}") from error
    except Exception as error:  # loaders raise whatever their file formats raise
        remedy = (
            "is the folder complete?"
            if source.is_local
            else "is the id right, and the hub reachable from this machine?"
        )
        raise ConfigError(f"model.path {config.path}: {what} ({_first_line(error)}); {remedy}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip(" :") for line in str(error).splitlines() if line.strip(" :")), type(error).__name__)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as hf_logging

    progress: Any = hf_logging
    gguf: Any = modeling_gguf_pytorch_utils  # draws a bar of its own, which the switch of transformers does not reach

    enabled, gguf_bar = progress.is_progress_bar_enabled(), gguf.tqdm
    progress.disable_progress_bar()
    gguf.tqdm = partial(gguf_bar, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = gguf_bar
        if enabled:
            progress.enable_progress_bar()
