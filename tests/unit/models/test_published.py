"""Architectures of published models: the shapes of plans without the hub, without weights and without a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, LlamaConfig

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig
from calibadv.models.lora import LoraConfig
from calibadv.models.published import ARCHITECTURES
from calibadv.models.sizes import ModelShape, plan_shape, shape_of

PARAMETERS = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
}
"""As the hub counts them."""


def shape(path: str | Path, *, rank: int | None = None) -> ModelShape:
    return plan_shape(ModelConfig(path=path), lora=LoraConfig(rank=rank))[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shapes_have_as_many_parameters_as_the_published_models(name: str) -> None:
    assert shape(name).parameters == PARAMETERS[name]


def test_a_model_tuned_on_instructions_has_the_shape_of_its_base() -> None:
    assert shape("Qwen/Qwen2.5-3B-Instruct") == shape("Qwen/Qwen2.5-3B")


def test_embedding_and_head_count_once_where_they_are_one_matrix() -> None:
    assert shape("Qwen/Qwen2.5-3B").embedding_parameters == 151_936 * 2_048
    assert shape("Qwen/Qwen2.5-7B").embedding_parameters == 2 * 152_064 * 3_584


def test_a_config_json_alone_is_enough(tmp_path: Path) -> None:
    tiny = LlamaConfig(
        hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, tie_word_embeddings=False,
    )  # fmt: skip
    tiny.save_pretrained(tmp_path)
    found, source = plan_shape(ModelConfig(path=tmp_path), lora=LoraConfig())
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192 + 2 * 64
    assert found.parameters == 2 * layer + 64 + 2 * 300 * 64
    assert source == "config.json"


def test_of_many_experts_a_token_uses_few() -> None:
    config = AutoConfig.for_model(
        "qwen3_moe",
        hidden_size=32, moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, num_experts=8, num_experts_per_tok=2, vocab_size=100, decoder_sparse_step=1, mlp_only_layers=[],
    )  # fmt: skip
    found = shape_of(config, lora=LoraConfig())
    experts = 2 * 8 * 3 * 32 * 16
    assert found.active_parameters == found.parameters - experts * 6 // 8
    assert shape("Qwen/Qwen2.5-3B").active_parameters is None


def test_a_model_that_nobody_knows_is_an_error_that_names_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"nobody/nothing.*a folder that holds its config\.json, or one of Qwen"):
        shape("nobody/nothing")
