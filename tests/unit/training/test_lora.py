"""LoRA: the adapter is trained, saved, resumed and merged; the model in memory is never touched by merging."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.lab import load_policy
from calibadv.models.load import ModelConfig, fingerprint, load_model
from calibadv.models.lora import LoraConfig, add_adapter, merged_weights, save_merged
from calibadv.models.sizes import adapter_parameters
from calibadv.runs.train import train
from calibadv.training import read_metrics
from calibadv.training.overrides.token_logprobs import add_token_head, can_score_tokens

pytest.importorskip("peft")


def adapted(model: Any, **settings: Any) -> Any:
    torch.manual_seed(1)
    adapter = add_adapter(model, settings=LoraConfig(**{"rank": 4} | settings), base="base/model")
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)  # zero at the start, so the adapter would not show
    return adapter


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "down_proj")])
def test_the_merged_model_computes_what_model_and_adapter_compute(
    make_model: Callable[[], LlamaForCausalLM], tmp_path: Path, targets: Any
) -> None:
    model = adapted(make_model(), targets=targets).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
        base: Any = make_model()
        plain = base.eval()(input_ids=ids).logits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_merged(model, tmp_path)
    merged: Any = LlamaForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        got = merged.eval()(input_ids=ids).logits
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_merged_weights_have_the_names_of_the_model(make_model: Callable[[], LlamaForCausalLM]) -> None:
    merged = merged_weights(adapted(make_model()).get_base_model())
    assert merged.keys() == make_model().state_dict().keys()


def test_trained_tokens_are_scored_through_the_adapter(make_model: Callable[[], LlamaForCausalLM]) -> None:
    model = adapted(make_model()).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits.log_softmax(-1)[0, [1, 2], [5, 6]]
        assert not can_score_tokens(model)
        add_token_head(model, temperature=1.0)
        assert can_score_tokens(model)
        logp, _, _ = model(input_ids=ids, score_mask=mask)
    assert torch.allclose(logp, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be >= 1, got 0"),
        ({"rank": 4, "alpha": 0}, "lora.alpha must be >= 1"),
        ({"rank": 4, "dropout": 1.0}, "lora.dropout must be in"),
        ({"rank": 4, "targets": ()}, "lora.targets must not be empty"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"targets": ("nope",)},
            r'lora.targets: "nope" is no linear layer of this model; choose from all-linear, down_',
        ),
        ({"targets": ("q_proj", "lm_head")}, r'lora.targets: "lm_head" is the head, which stays as it is; choose from'),
        ({"rank": 100_000}, r"lora.rank must be at most 16, the smaller side of .* got 100000; usual are 8 to 128"),
    ],
)
def test_layers_and_ranks_that_the_model_does_not_have_are_named(
    make_model: Callable[[], LlamaForCausalLM], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        add_adapter(make_model(), settings=LoraConfig(**{"rank": 2} | settings), base="x")


def test_layers_of_gpt2_are_covered_too() -> None:
    sizes: dict[str, Any] = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    adapter = add_adapter(model, settings=LoraConfig(rank=4, targets=("c_attn",)), base="x")
    trained = [parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad]
    assert trained == [4 * 16, 48 * 4]
    assert adapter_parameters(GPT2LMHeadModel(model.config), lora=LoraConfig(rank=4, targets=("c_attn",))) == 4 * 64


def test_no_rank_is_no_adapter(make_model: Callable[[], LlamaForCausalLM]) -> None:
    model = make_model()
    assert add_adapter(model, settings=LoraConfig(), base="x") is model


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> Any:
    settings = {
        "steps": 4, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
        "learning_rate": 1e-2, "lr_schedule": "constant", "save_every": 2,
    }  # fmt: skip
    sections = lab_run(tmp_path_factory.mktemp("world"), lora={"rank": 4}, training=settings)

    def make(output: Path, *, dropout: float = 0.0, **training: Any) -> RunConfig:
        changed = sections["training"] | {"output": str(output)} | training
        lora = sections["lora"] | {"dropout": dropout}
        return RunConfig.from_mapping(sections | {"training": changed, "lora": lora})

    return make


def test_an_adapter_is_trained_resumed_and_merged(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    whole = train(make_config(tmp_path / "whole"))
    checkpoint = whole / "checkpoint-4"
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (checkpoint / "model.safetensors").exists(), "a checkpoint holds the adapter only"
    base = load_file(load_policy() / "model.safetensors")
    trained = load_file(whole / "model" / "model.safetensors")
    moved = [name for name in base if not torch.equal(base[name], trained[name])]
    assert moved
    assert all("_proj" in name for name in moved)
    # the checkpoint, merged while loading, is the model of the end
    config = ModelConfig(path=checkpoint, device="cpu")
    loaded = load_model(config)[0].state_dict()
    assert all(torch.allclose(loaded[name], value, atol=1e-6) for name, value in trained.items())
    named = json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(load_policy())
    assert fingerprint(config)["sha256"] != fingerprint(ModelConfig(path=load_policy()))["sha256"]

    train(make_config(tmp_path / "cut", steps=2, activation_checkpointing=True))
    cut = train(make_config(tmp_path / "cut"), resume=True)
    lines, wanted = (
        [
            {k: v for k, v in line.items() if not k.startswith("seconds_")}
            for line in read_metrics(run / "metrics.jsonl")
        ]
        for run in (cut, whole)
    )
    assert lines == wanted
    again = load_file(cut / "model" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in trained.items())


def test_an_adapter_that_the_model_cannot_have_is_refused_before_anything_is_read(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run")
    config = replace(config, lora=LoraConfig(rank=4096), data=replace(config.data, train=(Path("absent.jsonl"),)))
    with pytest.raises(ConfigError, match=r"^lora\.rank must be at most"):
        train(config)


def test_an_adapter_with_dropout_resumes_to_the_same_weights(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    whole = train(make_config(tmp_path / "whole", dropout=0.2))
    train(make_config(tmp_path / "cut", dropout=0.2, steps=2))
    cut = train(make_config(tmp_path / "cut", dropout=0.2), resume=True)
    wanted, got = (load_file(run / "model" / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
