"""Keys and values of all rows, kept across turns, and the attention over them.

The model runs unchanged except for its attention function: transformers lets one register such a function by name, and
`PackedModel` selects ours while it runs. New keys and values are written to (row, position) of a buffer per layer;
queries are laid out by `kv_layout`. Models whose attention cannot be replaced so, or which mix in other kinds of
layers (sliding windows smaller than the context, recurrent or linear layers), are refused.

Shape suffixes as in `kv_layout`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from calibadv.errors import PolicyError
from calibadv.rollout.policies.kv_layout import Layout, Reading, Writing, make_layout

ATTENTION = "calibadv_packed"
_KEEP_BYTES = 2**28
_BLOCK, _SMALL = 128, 1024  # tokens per row: the steps in which the cache grows, and up to where it doubles


class PackedCache(Cache):
    """One buffer [rows, heads, tokens, dim] for the keys and one for the values of each layer."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layout: Layout | None = None
        self.num_rows = 0
        self.capacity = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def reserve(self, *, num_rows: int, num_tokens: int) -> None:
        """Make room for that many rows and tokens per row; what is there stays."""
        if num_rows <= self.num_rows and num_tokens <= self.capacity:
            return
        # Few copies without much waste: double while small, then grow by a quarter.
        rows = self.num_rows if num_rows <= self.num_rows else max(num_rows, self.num_rows * 3 // 2)
        grown = self.capacity * 2 if self.capacity < _SMALL else self.capacity * 5 // 4
        tokens = self.capacity if num_tokens <= self.capacity else max(num_tokens, grown)
        self.num_rows, self.capacity = rows, -(-tokens // _BLOCK) * _BLOCK
        for buffers in (self._keys, self._values):
            for layer, old in buffers.items():
                new = old.new_empty(self.num_rows, old.shape[1], self.capacity, old.shape[3])
                held_rows, held_tokens = old.shape[0], old.shape[2]
                new[:held_rows, :, :held_tokens] = old
                # Zeros, not garbage: a masked key or value of NaN would still spoil the sum.
                new[:held_rows, :, held_tokens:] = 0
                new[held_rows:] = 0
                buffers[layer] = new

    @torch.inference_mode()
    def copy_rows(self, *, sources: list[int], targets: list[int], num_tokens: int) -> None:
        """Copy the first tokens of some rows over others."""
        for buffers in (self._keys, self._values):
            for buffer in buffers.values():
                buffer[targets, :, :num_tokens] = buffer[sources, :, :num_tokens]

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for buffers in (self._keys, self._values) for buffer in buffers.values())

    def clear(self) -> None:
        """Give the memory back."""
        self._keys.clear()
        self._values.clear()
        self.num_rows = self.capacity = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the tick's keys and values [1, heads, S, dim]; returns the whole buffers."""
        assert self.layout is not None
        if layer_idx not in self._keys:
            for buffers, states in ((self._keys, key_states), (self._values, value_states)):
                buffers[layer_idx] = states.new_zeros(self.num_rows, states.shape[1], self.capacity, states.shape[3])
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        for buffer, states in ((keys, key_states), (values, value_states)):
            cells = self.layout.cells(num_heads=buffer.shape[1], capacity=self.capacity)
            new = states[0].transpose(0, 1).reshape(-1, states.shape[3])
            buffer.view(-1, buffer.shape[3]).index_copy_(0, cells, new.to(buffer.dtype))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.layout is None else int(self.layout.num_tokens)


_running: list[Layout] = []  # the layout of the forward that is running; attention functions get no argument of ours


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, S, dim]
    key: torch.Tensor,  # [R, key heads, capacity, dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the tick's tokens, each over its own row."""
    for name in ("softcap", "s_aux", "sinks", "position_bias", "head_mask"):
        if kwargs.get(name) is not None:
            raise PolicyError(
                f"{type(module).__name__} asks for attention with {name}, which TransformersPolicy does not have; "
                "use another model or another policy"
            )
    if not _running:
        raise PolicyError(f"the attention function {ATTENTION!r} only runs inside of TransformersPolicy")
    layout = _running[-1]
    query_S = query[0].transpose(0, 1)  # [S, heads, dim]
    out = query_S.new_empty(query_S.shape[0], query_S.shape[1], value.shape[3])
    if key.dtype != query.dtype:
        query_S = query_S.to(key.dtype)
    for writing in layout.writing:
        out.index_copy_(0, writing.tokens_D, _attend_writing(query_S, key, value, writing, scaling).to(out.dtype))
    for reading in layout.reading:
        out.index_copy_(0, reading.tokens, _attend_reading(query_S, key, value, reading, scaling).to(out.dtype))
    return out[None], None


def _attend_writing(
    query_S: torch.Tensor, key: torch.Tensor, value: torch.Tensor, writing: Writing, scaling: float | None
) -> torch.Tensor:
    count = len(writing.rows_D)
    # Query heads that share a key head stand where a sequence would: no key is repeated.
    query = query_S.index_select(0, writing.tokens_D).view(count, key.shape[1], -1, key.shape[3])
    if writing.num_rows:
        keys, values = key[: writing.num_rows, :, : writing.num_keys], value[: writing.num_rows, :, : writing.num_keys]
        spread = query.new_zeros(writing.num_rows, *query.shape[1:])
        query = spread.index_copy_(0, writing.rows_D, query)
    else:
        keys = key[:, :, : writing.num_keys].index_select(0, writing.rows_D)
        values = value[:, :, : writing.num_keys].index_select(0, writing.rows_D)
    mask = writing.mask.added(query.dtype)
    if query.device.type == "cpu" and query.dtype == torch.float32:
        # One query per row: two products are faster on a CPU than the fused kernel, which is made for many.
        scale = key.shape[3] ** -0.5 if scaling is None else scaling
        scores = torch.matmul(query.mul_(scale), keys.transpose(2, 3)).add_(mask)
        out = torch.matmul(torch.softmax(scores, dim=-1), values)
    else:
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    if writing.num_rows:
        out = out.index_select(0, writing.rows_D)
    return out.reshape(count, query_S.shape[1], value.shape[3])


def _attend_reading(
    query_S: torch.Tensor, key: torch.Tensor, value: torch.Tensor, reading: Reading, scaling: float | None
) -> torch.Tensor:
    num_rows, longest = reading.tokens_BL.shape
    heads, key_heads = query_S.shape[1], key.shape[1]
    query = query_S.index_select(0, reading.tokens_BL.flatten()).view(num_rows, longest, heads, -1).transpose(1, 2)
    query = query.reshape(num_rows, key_heads, -1, query_S.shape[2])  # [B, key heads, G * L, dim]
    keys = key[:, :, : reading.num_keys].index_select(0, reading.rows_B)
    values = value[:, :, : reading.num_keys].index_select(0, reading.rows_B)
    mask = reading.mask_for(heads // key_heads, query.dtype)
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    out = out.reshape(num_rows, heads, longest, -1).transpose(1, 2).reshape(num_rows * longest, heads, -1)
    return out.index_select(0, reading.valid)


class PackedModel:
    """A causal LM that takes packed ticks. ``with packed:`` sets our attention and evaluation mode, and undoes both."""

    def __init__(self, model: Any, *, max_context: int, gather: bool | None = None) -> None:
        check_supported(model, max_context=max_context)
        self.model = model
        self.cache = PackedCache()
        self.device = next(model.parameters()).device
        self.gather = self.device.type == "cpu" if gather is None else gather
        """Copy the rows that write together for their attention (see `kv_layout`)."""
        self._mask = torch.zeros(1, 1, 1, 1, device=self.device)  # 4D: transformers then makes no mask of its own
        self._keeps_logits = "logits_to_keep" in inspect.signature(_base(model).forward).parameters
        self._saved: list[tuple[Any, Any]] = []
        self._evaluating = ExitStack()

    def __enter__(self) -> PackedModel:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
        configs = {id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")}
        self._saved = [
            (config, config._attn_implementation_internal)
            for config in configs.values()
            if hasattr(config, "_attn_implementation_internal")
        ]
        for config, _ in self._saved:
            config._attn_implementation_internal = ATTENTION
        self._evaluating.enter_context(evaluating(self.model))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for config, implementation in self._saved:
            config._attn_implementation_internal = implementation
        self._saved = []
        if kind is not None or self.device.type != "cpu" or self.cache.num_bytes > _KEEP_BYTES:
            self.cache.clear()  # small ones stay for the next rollout: making them again costs a tenth of its time
        self._evaluating.close()

    def logits(self, ids_S: torch.Tensor, layout: Layout, *, last: torch.Tensor) -> torch.Tensor:
        """Run one tick; logits [len(last), vocabulary] after the tokens ``last`` of the tick, in float32."""
        self.cache.layout = layout
        extra = {"logits_to_keep": last} if self._keeps_logits else {}
        _running.append(layout)
        try:
            logits: torch.Tensor = self.model(
                input_ids=ids_S[None],
                position_ids=layout.positions_S[None],
                attention_mask=self._mask,
                past_key_values=self.cache,
                use_cache=True,
                **extra,
            ).logits[0]
        finally:
            _running.pop()
        return (logits if self._keeps_logits else logits[last]).float()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode (no dropout); afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _base(model: Any) -> Any:
    """The transformers model inside of an adapter wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def verify(packed: PackedModel) -> None:
    """Compare two short rows, read and written packed, with plain forwards; a model that differs is refused."""
    vocabulary = int(_base(packed.model).get_input_embeddings().weight.shape[0])
    rows = [[(7 * i + 11 * row + 1) % vocabulary for i in range(n)] for row, n in enumerate((6, 3))]
    ids = [torch.tensor(row, device=packed.device) for row in rows]
    with torch.inference_mode():
        with evaluating(packed.model):
            plain = torch.stack(
                [packed.model(input_ids=row[None], use_cache=False).logits[0, -1].float() for row in ids]
            )
        if not torch.isfinite(plain).all():
            return  # the first tick will say which episode meets it
        with packed:
            packed.cache.reserve(num_rows=2, num_tokens=6)
            none, last = np.zeros(0, dtype=np.int64), torch.tensor([4, 6], device=packed.device)
            layout = make_layout(
                writing_rows=none, writing_positions=none, reading_rows=[0, 1], reading_starts=[0, 0],
                reading_sizes=[5, 2], device=packed.device, gather=packed.gather,
            )  # fmt: skip
            packed.logits(torch.cat([row[:-1] for row in ids]), layout, last=last)
            layout = make_layout(
                writing_rows=np.arange(2), writing_positions=np.array([5, 2]), reading_rows=[], reading_starts=[],
                reading_sizes=[], device=packed.device, gather=packed.gather,
            )  # fmt: skip
            got = packed.logits(torch.stack([row[-1] for row in ids]), layout, last=last.new_tensor([0, 1]))
    half = next(packed.model.parameters()).dtype in (torch.float16, torch.bfloat16)
    half = half or torch.is_autocast_enabled(packed.device.type)
    error, scale = float((got - plain).abs().max()), max(1.0, float(plain.abs().max()))
    if not error <= (0.1 if half else 2e-3) * scale:
        raise PolicyError(
            f"{type(packed.model).__name__} gives other logits with packed attention than without (difference "
            f"{error:.3g}): its attention or its cache has a layout that TransformersPolicy does not know; write "
            "another Policy for it"
        )


def check_supported(model: Any, *, max_context: int) -> None:
    """Refuse models that a packed cache of plain keys and values would get wrong."""
    name = type(model).__name__
    base = _base(model)
    config = base.config.get_text_config() if hasattr(base.config, "get_text_config") else base.config
    remedy = "use a decoder with full attention in every layer, or write another Policy"
    if getattr(base.config, "is_encoder_decoder", False) or getattr(base, "_is_stateful", False):
        raise PolicyError(f"{name} is not a decoder that caches keys and values only; {remedy}")
    if not getattr(base, "_supports_attention_backend", False):
        raise PolicyError(f"{name} does not let its attention function be replaced (no attention backend); {remedy}")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    chunk = getattr(config, "attention_chunk_size", None)
    if getattr(config, "layer_types", None) is None and window is not None:
        kinds = {"sliding_attention"}
    other = kinds - {"full_attention", "attention", "sliding_attention", "chunked_attention"}
    if other:
        raise PolicyError(f"{name} has layers of the kind {', '.join(sorted(other))}; {remedy}")
    for kind, size in (("sliding_attention", window), ("chunked_attention", chunk)):
        if kind in kinds and (size is None or size < max_context):
            raise PolicyError(
                f"{name} has layers of the kind {kind} over {size} tokens, less than max_context = {max_context}; "
                f"set model.max_context to at most {size}, or use another model"
            )
