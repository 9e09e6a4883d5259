"""The shape of a model without its weights, and how much memory a device has: what estimates are made from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.devices import usable_device, without_progress_bars
from calibadv.errors import ConfigError
from calibadv.models.load import ModelConfig, ModelSource, explained, local_folder, resolve_model
from calibadv.models.lora import LoraConfig, covered_layers
from calibadv.models.published import ARCHITECTURES, published_architecture

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a causal language model."""

    parameters: int
    """Shared ones count once."""
    trained_parameters: int
    """Those that training changes: all, or the adapter's."""
    layers: int
    hidden: int
    feed_forward: int
    query_size: int
    """Attention heads x head size."""
    key_value_size: int
    """Key-value heads x head size."""
    vocabulary: int
    embedding_parameters: int = 0
    """Of the embedding and the head; counted once where they are one matrix."""
    active_parameters: int | None = None
    """Those that one token passes through, where a token sees only some of the experts of a layer."""
    max_context: int | None = None
    """Positions the model knows."""


def read_shape(config: ModelConfig, *, lora: LoraConfig) -> ModelShape:
    """The shape of the model that ``config`` names, from its configuration alone (no weights are read)."""
    source = resolve_model(config)
    from transformers import AutoConfig

    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with explained(config, source), without_progress_bars():
        hf_config = AutoConfig.from_pretrained(local_folder(source, weights=False), **extra)
        return shape_of(hf_config, lora=lora)


def plan_shape(config: ModelConfig, *, lora: LoraConfig) -> tuple[ModelShape, str]:
    """The shape for a plan, and where it is from: no weights and no tokenizer are needed, and for a model of the
    recipes no hub."""
    from transformers import AutoConfig

    folder = Path(str(config.path)).expanduser()
    if (folder / CONFIG_FILE).is_file():
        with explained(config, ModelSource(name=str(folder))), without_progress_bars():
            return shape_of(AutoConfig.from_pretrained(folder), lora=lora), CONFIG_FILE
    architecture = published_architecture(str(config.path))
    if architecture is not None:
        return shape_of(AutoConfig.for_model(**architecture), lora=lora), "published architecture"
    try:
        return read_shape(config, lora=lora), "the model's configuration"
    except ConfigError as error:
        raise ConfigError(
            f"{error}; a plan needs the model's shape only: a folder that holds its {CONFIG_FILE}, or one of "
            f"{', '.join(ARCHITECTURES)}"
        ) from error


def shape_of(hf_config: Any, *, lora: LoraConfig) -> ModelShape:
    """The shape of the model that a configuration of transformers describes; the model is made without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(hf_config)
    text = hf_config.get_text_config()
    heads = int(text.num_attention_heads)
    head_size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    parameters = sum(p.numel() for p in model.parameters())
    matrices = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    return ModelShape(
        parameters=parameters,
        trained_parameters=parameters if lora.rank is None else adapter_parameters(model, lora=lora),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        feed_forward=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        query_size=heads * head_size,
        key_value_size=int(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        vocabulary=int(text.vocab_size),
        embedding_parameters=sum(matrices.values()),
        active_parameters=active_parameters(model, text),
        max_context=getattr(text, "max_position_embeddings", None),
    )


def active_parameters(model: Any, text: Any) -> int | None:
    """Parameters that one token passes through; None where that is all of them."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((int(found) for name in names if (found := getattr(text, name, None))), 0)
    used = int(getattr(text, "num_experts_per_tok", None) or 0)
    if not experts or not used:
        return None
    parameters = dict(model.named_parameters())
    of_experts = sum(p.numel() for name, p in parameters.items() if ".experts." in name)
    return int(sum(p.numel() for p in parameters.values()) - of_experts + of_experts * used // experts)


def adapter_parameters(model: Any, *, lora: LoraConfig) -> int:
    """Parameters of the two small matrices beside every layer that the adapter covers."""
    rank = lora.rank or 0
    return sum(rank * (inputs + outputs) for inputs, outputs in covered_layers(model, settings=lora).values())


def free_memory(device: str) -> tuple[str, int]:
    """What the device is called and how many bytes of it are free."""
    import torch

    place = torch.device(usable_device(device, setting="model.device"))
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        return torch.cuda.get_device_name(place), int(free)
    return ("the CPU" if place.type == "cpu" else str(place)), available_ram()


def available_ram() -> int:
    """Bytes of memory that a new process could take, as the system says."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the free memory of this machine cannot be read ({error})") from error
