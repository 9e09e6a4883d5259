"""Architectures of the recipes' models as published, for plans and benchmarks without the hub and without weights.

Each is what the model's ``config.json`` says of its shape; `transformers` makes the model from it. Light: no torch.
"""

from __future__ import annotations

from typing import Any

_QWEN = {"model_type": "qwen2", "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 32_768}
_LLAMA = {
    "model_type": "llama", "vocab_size": 128_256, "tie_word_embeddings": True, "max_position_embeddings": 131_072,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
_UNTIED = {"vocab_size": 152_064, "tie_word_embeddings": False}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": _QWEN | {
        "hidden_size": 896, "intermediate_size": 4_864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "Qwen/Qwen2.5-1.5B": _QWEN | {
        "hidden_size": 1_536, "intermediate_size": 8_960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "Qwen/Qwen2.5-3B": _QWEN | {
        "hidden_size": 2_048, "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "Qwen/Qwen2.5-7B": _QWEN | _UNTIED | {
        "hidden_size": 3_584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "Qwen/Qwen2.5-14B": _QWEN | _UNTIED | {
        "hidden_size": 5_120, "intermediate_size": 13_824, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "meta-llama/Llama-3.2-1B": _LLAMA | {
        "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "head_dim": 64,
    },
    "meta-llama/Llama-3.2-3B": _LLAMA | {
        "hidden_size": 3_072, "intermediate_size": 8_192, "num_hidden_layers": 28, "num_attention_heads": 24,
    },
}  # fmt: skip
"""By hub id; a model tuned on instructions has the shape of its base."""


def published_architecture(name: str) -> dict[str, Any] | None:
    """The architecture of a hub id; None for one that is not in the table.

    >>> published_architecture("Qwen/Qwen2.5-3B-Instruct")["num_hidden_layers"]
    36
    """
    return ARCHITECTURES.get(name.removesuffix("-Instruct"))
