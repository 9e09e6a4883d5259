"""Initial weights from which reading is learned in minutes.

*Mimetic*: in every layer ``k_proj = q_proj`` and ``o_proj = v_projᵀ``, so attention starts as "look at similar tokens"
and the values are written back unrotated. *One-back heads*: half of the heads of the first two layers attend to the
token before; their queries and keys read nothing but embedding dimension 0, which is the same for every token.

The architecture stays a plain Llama; training changes all of it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaForCausalLM

WEIGHT_STD = 0.05
ROPE_THETA = 10_000.0
CONSTANT = 0.5
"""Value of embedding dimension 0."""
ONE_BACK_LAYERS = 2
ONE_BACK_SCALE = 6.0
"""Length of each rotary pair of a one-back query and key; larger is sharper."""
ONE_BACK_VALUE = 0.7


@torch.no_grad()
def initialise(model: LlamaForCausalLM, *, seed: int) -> None:
    """Fill all weights of ``model``."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0.0, WEIGHT_STD, generator=generator)
        else:
            parameter.fill_(1.0)
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        if number < ONE_BACK_LAYERS:
            for head in range(model.config.num_attention_heads // 2):
                _look_one_back(model, attention, head=head)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)


def _look_one_back(model: LlamaForCausalLM, attention: Any, *, head: int) -> None:
    size = model.config.hidden_size // model.config.num_attention_heads
    half = size // 2
    rows = slice(head * size, (head + 1) * size)
    embedding_rms = (WEIGHT_STD**2 + CONSTANT**2 / model.config.hidden_size) ** 0.5
    scale = ONE_BACK_SCALE * embedding_rms / CONSTANT  # the normalised input has CONSTANT / rms in dimension 0
    angles = ROPE_THETA ** (-torch.arange(half) / half)
    for projection, turn in ((attention.q_proj, -angles), (attention.k_proj, torch.zeros(half))):
        projection.weight[rows] = 0.0
        # Position p turned by -1 is position p - 1, so the score is largest where the key is one back.
        projection.weight[rows, 0] = scale * torch.cat([turn.cos(), turn.sin()])
    attention.v_proj.weight[rows] *= ONE_BACK_VALUE
