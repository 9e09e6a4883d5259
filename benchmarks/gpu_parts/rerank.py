"""Re-ranking: pairs a second of a cross-encoder with the shape of ms-marco-MiniLM-L12-v2 and random weights.

The model alone, on token ids; splitting texts into tokens costs a CPU besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu_parts.setup import Setup

TOKENS = 180
"""Of a pair: a query, and a passage of 100 words with its title."""


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    from transformers import BertConfig, BertForSequenceClassification

    layers = 2 if setup.tiny else 12
    config = BertConfig(
        vocab_size=30_522, hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1_536,
    )  # fmt: skip
    config.num_labels = 1
    dtype = torch.float16 if setup.on_gpu else torch.float32
    model: Any = BertForSequenceClassification(config)
    model.to(setup.device, dtype).eval()
    for pairs in (8,) if setup.tiny else (64, 256, 1_024):
        ids = torch.randint(config.vocab_size, (pairs, TOKENS), device=setup.device)
        mask = torch.ones_like(ids)

        def score(ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> None:
            with torch.inference_mode():
                model(input_ids=ids, attention_mask=mask)

        seconds = setup.seconds(score)
        yield {"pairs": pairs, "tokens": TOKENS, "pairs_per_s": pairs / seconds, "peak": setup.peak()}
