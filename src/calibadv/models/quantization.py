"""Weights in 4 bits, with an adapter on them that is trained (QLoRA, Dettmers et al. 2023), by
the package bitsandbytes.

The settings of the paper: NF4 with the quantisation constants quantised again, and matrices multiplied in
``model.dtype``. The head, embeddings and norms stay as they are.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig

INSTALL = "pip install 'calibadv[quantization]'"


def quantization_options(config: ModelConfig, *, device: str) -> dict[str, Any]:
    """What transformers' ``from_pretrained`` is given for ``model.quantization``.

    Raises:
        ConfigError: The package that packs the weights is missing, or cannot be imported here.
    """
    if config.quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f'model.quantization "{config.quantization}" needs the package bitsandbytes: {INSTALL}')
    import torch
    from transformers import BitsAndBytesConfig

    packed = BitsAndBytesConfig(  # type: ignore[no-untyped-call]  # no annotations there
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
    return {"quantization_config": packed, "device_map": {"": device}}


def is_quantized(model: Any) -> bool:
    """Whether the weights of a model, or of the model inside of its adapter, are packed."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def keep_adapter_in_float32(model: Any) -> None:
    """Undo TRL's rounding of a quantized model's adapter to bfloat16, in which small updates are lost."""
    import torch

    if is_quantized(model):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
