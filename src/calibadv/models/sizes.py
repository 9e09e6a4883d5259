"""The shape of a model without its weights, and how much memory a device has: what estimates are made from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.devices import usable_device, without_progress_bars
from calibadv.errors import ConfigError
from calibadv.models.load import ModelConfig, explained, local_folder, resolve_model
from calibadv.models.lora import LoraConfig


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
    max_context: int | None = None
    """Positions the model knows."""


def read_shape(config: ModelConfig, *, lora: LoraConfig) -> ModelShape:
    """The shape of the model that ``config`` names, from its configuration alone (no weights are read)."""
    source = resolve_model(config)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    extra: dict[str, Any] = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    with explained(config, source), without_progress_bars():
        hf_config = AutoConfig.from_pretrained(local_folder(source, weights=False), **extra)
        auto: Any = AutoModelForCausalLM
        with torch.device("meta"):
            model = auto.from_config(hf_config)
    text = hf_config.get_text_config()
    heads = int(text.num_attention_heads)
    head_size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    parameters = sum(p.numel() for p in model.parameters())
    return ModelShape(
        parameters=parameters,
        trained_parameters=parameters if lora.rank is None else adapter_parameters(model, lora=lora),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        feed_forward=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        query_size=heads * head_size,
        key_value_size=int(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        vocabulary=int(text.vocab_size),
        max_context=getattr(text, "max_position_embeddings", None),
    )


def adapter_parameters(model: Any, *, lora: LoraConfig) -> int:
    """Parameters of the two small matrices beside every layer that the adapter covers."""
    from torch import nn

    head, rank = model.get_output_embeddings(), lora.rank or 0
    covered = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and lora.covers(name)
    ]
    return sum(rank * (module.in_features + module.out_features) for module in covered)


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
