"""The memory formulas against what torch really holds, for small models whose sizes are easy to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from calibadv.doctor.memory import (
    Lengths,
    MemoryPlan,
    activation_bytes_per_token,
    kv_bytes_per_token,
    logit_bytes,
    plan_memory,
)
from calibadv.models.load import ModelConfig
from calibadv.models.lora import LoraConfig, add_adapter
from calibadv.models.sizes import ModelShape, read_shape
from calibadv.rollout import RolloutConfig
from calibadv.rollout.policies.transformers import DEFAULT_ROWS
from calibadv.training.config import TrainingConfig

FACTOR = 1.3
"""How far an estimate may be off, either way."""
SHAPES = (
    {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2},
    {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "num_key_value_heads": 3},
    {"hidden_size": 64, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 1},
)


def make_config(shape: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        **shape, vocab_size=300, num_hidden_layers=4, max_position_embeddings=512, tie_word_embeddings=True
    )


@pytest.fixture(params=SHAPES, ids=["grouped", "full", "wide"])
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_config(request.param).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def shape_of(folder: Path, **lora: Any) -> ModelShape:
    return read_shape(ModelConfig(path=folder), lora=LoraConfig(**lora))


def close(estimate: float, measured: float, factor: float = FACTOR) -> bool:
    return measured / factor <= estimate <= measured * factor


def test_parameters_are_counted_without_weights(model_folder: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder))
    assert shape_of(model_folder).parameters == sum(p.numel() for p in model.parameters())
    assert shape_of(model_folder).trained_parameters == shape_of(model_folder).parameters


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_adapter_parameters_are_those_of_the_adapter(model_folder: Path, targets: tuple[str, ...]) -> None:
    pytest.importorskip("peft")
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder))
    adapted = add_adapter(model, settings=LoraConfig(rank=4, targets=targets), base="x")
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape_of(model_folder, rank=4, targets=targets).trained_parameters == trained


def saved_bytes(model: Any, *, tokens: int, autocast: bool) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights and their copies aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters() if p.dim() > 1}
    shapes |= {(b, a) for a, b in shapes}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    ids = torch.randint(300, (1, tokens))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    total = sum(size for size, _ in kept.values())
    del hidden
    return total


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_as_estimated(model_folder: Path, dtype: str) -> None:
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder))
    model.train()
    few, many = (saved_bytes(model, tokens=tokens, autocast=dtype != "float32") for tokens in (128, 384))
    per_token = (many - few) / 256
    assert close(activation_bytes_per_token(shape_of(model_folder), dtype=dtype), per_token)


def test_keys_and_values_are_as_estimated(model_folder: Path) -> None:
    model: Any = LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder))
    model.eval()
    with torch.no_grad():
        cache = model(input_ids=torch.randint(300, (1, 50)), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes_per_token(shape_of(model_folder), dtype="float32") * 50 == held


def test_weights_gradients_and_optimizer_are_what_torch_allocates(model_folder: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(model_folder))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.randint(300, (1, 8)), labels=torch.randint(300, (1, 8))).loss.backward()
    optimizer.step()
    plan = plan_of(shape_of(model_folder))
    assert plan.weights == sum(p.nbytes for p in model.parameters())
    assert plan.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    states: list[dict[str, torch.Tensor]] = list(optimizer.state.values())
    moments = sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
    assert plan.optimizer == moments


def plan_of(shape: Any, *, dtype: str = "float32", rows: int = 20, rollout: Any = None, **training: Any) -> MemoryPlan:
    return plan_memory(
        shape,
        lengths=Lengths(prompt=100, turn=50, observation=200),
        rollout=rollout or RolloutConfig(max_searches=2),
        training=TrainingConfig(**{"micro_batch_tokens": 2600} | training),
        dtype=dtype,
        rows=rows,
        max_rows=DEFAULT_ROWS,
    )


SHAPE = ModelShape(
    parameters=1_000_000, trained_parameters=1_000_000, layers=2, hidden=8, feed_forward=16, query_size=8,
    key_value_size=4, vocabulary=1000, max_context=4096,
)  # fmt: skip


def test_a_reference_model_is_counted_unless_an_adapter_makes_it_free() -> None:
    assert plan_of(SHAPE, beta=0.1).reference == plan_of(SHAPE).weights
    adapted = replace(SHAPE, trained_parameters=1_000)
    assert plan_of(adapted, beta=0.1).reference == 0


def test_a_plan_worked_by_hand() -> None:
    plan = plan_of(SHAPE)
    assert plan.weights == 4_000_000
    assert plan.optimizer == 8_000_000
    episode = 100 + 2 * 250 + 50
    assert plan.activations == 4 * episode * 2 * 4 * (6 * 8 + 3 * 8 + 2 * 4 + 4 * 16)
    assert plan.logits == 3 * 4 * 4 * 150 * 1000
    assert plan.kv_cache == 20 * episode * 2 * 2 * 4 * 4


def test_activation_checkpointing_keeps_one_layer_and_the_borders() -> None:
    plan = plan_of(SHAPE, activation_checkpointing=True)
    assert plan.activations == 4 * 650 * (2 * 4 * 8 + 4 * (6 * 8 + 3 * 8 + 2 * 4 + 4 * 16))


def test_an_adapter_saves_gradients_and_optimizer() -> None:
    adapted = plan_of(replace(SHAPE, trained_parameters=10_000))
    assert adapted.gradients == 40_000
    assert adapted.optimizer == 80_000
    assert adapted.weights == plan_of(SHAPE).weights


def test_limits_of_context_rows_and_head_count() -> None:
    assert plan_of(replace(SHAPE, max_context=128)).kv_cache == 20 * 128 * 64
    assert plan_of(SHAPE, rows=500).kv_cache == plan_of(SHAPE, rows=80).kv_cache  # 64 write, 16 wait
    assert plan_of(SHAPE, rollout=RolloutConfig(max_searches=2, concurrency=5)).kv_cache == 5 * 650 * 64
    assert logit_bytes(SHAPE, scored_tokens=600, held_elements=1000) == 12_000
    assert plan_of(SHAPE, dtype="bfloat16").kv_cache == plan_of(SHAPE).kv_cache / 2


def test_the_larger_of_updates_and_rollouts_counts() -> None:
    plan = plan_of(SHAPE)
    assert plan.total == max(plan.update, plan.rollout)
    assert plan.rollout - plan.weights - plan.optimizer - plan.kv_cache == pytest.approx(0.6 * 2**30, abs=1)
