"""Continuing an adapter, and adapters on weights of 4 bits."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.config import RunConfig
from calibadv.data.run_files import read_metrics
from calibadv.errors import ConfigError
from calibadv.lab import load_policy
from calibadv.models.config import ModelConfig
from calibadv.models.load import load_model
from calibadv.models.lora import LoraConfig
from calibadv.models.quantization import quantization_options
from calibadv.runs.train import in_training, train

pytest.importorskip("peft")
Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> Configure:
    settings = {
        "steps": 4, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "learning_rate": 1e-2,
        "lr_schedule": "constant", "save_every": 2,
    }  # fmt: skip
    sections = lab_run(tmp_path_factory.mktemp("world"), training=settings)

    def make(output: Path, *, lora: dict[str, Any], model: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        changed = {"training": sections["training"] | {"output": str(output)} | training, "lora": lora}
        return RunConfig.from_mapping(sections | changed | {"model": sections["model"] | (model or {})})

    return make


@pytest.fixture(scope="module")
def adapter(make_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was trained for a batch."""
    run = train(make_config(tmp_path_factory.mktemp("first") / "run", lora={"rank": 4, "targets": ["q_proj"]}, steps=2))
    return run / "checkpoint-2"


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def records(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if not name.startswith("seconds_")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def test_an_adapter_is_trained_on_with_its_own_rank_and_targets(
    make_config: Configure, adapter: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", lora={"adapter": str(adapter)}, beta=0.1)
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (4, 32, ("q_proj",))
    assert RunConfig.from_mapping(config.effective()).lora == config.lora
    run = train(config)
    before, after = adapter_weights(adapter), adapter_weights(run / "checkpoint-4")
    assert before.keys() == after.keys()
    assert not all(torch.equal(before[name], after[name]) for name in before)
    first, second = (line["kl"] for line in records(run))
    assert first < second, "the reference is the adapter as it was, from which the run moves away"

    train(make_config(tmp_path / "cut", lora={"adapter": str(adapter)}, beta=0.1, steps=2))
    cut = train(make_config(tmp_path / "cut", lora={"adapter": str(adapter)}, beta=0.1), resume=True)
    assert records(cut) == records(run)
    assert all(torch.equal(value, after[name]) for name, value in adapter_weights(cut / "checkpoint-4").items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, r"lora.rank is 8, but the adapter in lora.adapter .* has 4: leave it out"),
        ({"alpha": 16}, r"lora.alpha is 16, but the adapter .* has 32"),
        ({"targets": ("v_proj",)}, r'lora.targets is \["v_proj"\], but the adapter .* has \["q_proj"\]'),
    ],
)
def test_settings_that_contradict_the_adapter_are_refused(
    adapter: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraConfig(adapter=adapter, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only plain LoRA can be continued, and this adapter has peft_type IA3"),
        ({"use_dora": True}, "this adapter has use_dora"),
        ({"modules_to_save": ["lm_head"]}, "this adapter has modules_to_save"),
        ({"r": None}, r"its adapter_config.json cannot be read"),
    ],
)
def test_adapter_that_cannot_be_continued_is_refused_by_its_config(
    adapter: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^lora.adapter {tmp_path}: .*{message}"):
        LoraConfig(adapter=tmp_path)


def test_folder_without_an_adapter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora.adapter .*: no adapter there \(no adapter_config.json\)"):
        LoraConfig(adapter=tmp_path)
    assert LoraConfig(adapter=tmp_path / "gone", rank=4).rank == 4, "the config of a run that has begun stays readable"


def test_adapter_of_another_model_is_told_in_one_line(make_config: Configure, adapter: Path, tmp_path: Path) -> None:
    wrong = adapter_weights(adapter)
    wrong = {name: torch.zeros(value.shape[0] + 1, value.shape[1] + 1) for name, value in wrong.items()}
    from safetensors.torch import save_file

    save_file(wrong, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"lora.adapter .* does not fit model.path .*; was it trained on") as caught:
        train(make_config(tmp_path / "run", lora={"adapter": str(tmp_path)}))
    assert "\n" not in str(caught.value)


def test_quantization_is_what_qlora_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantization_options(ModelConfig(path="m"), device="cpu") == {}
    config = ModelConfig(path="m", quantization="4bit", dtype="bfloat16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model.quantization \"4bit\" needs the package bitsandbytes: pip install"):
        quantization_options(config, device="cpu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"engine": "vllm"}, r'model.quantization "4bit" is for model.engine "transformers"'),
        ({"path": "model.gguf"}, r'model.quantization "4bit" cannot be used with a .gguf file'),
        ({"quantization": "3bit"}, r'model.quantization must be one of "4bit" or "none", got "3bit"'),
    ],
)
def test_quantization_that_cannot_work_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**{"path": "m", "quantization": "4bit"} | model)


def test_packed_weights_without_an_adapter_or_sharded_are_refused(make_config: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.quantization \"4bit\" can only be trained with an adapter: set lora"):
        train(make_config(tmp_path / "run", lora={}, model={"quantization": "4bit"}))
    with pytest.raises(ConfigError, match=r"model.quantization \"4bit\" cannot be used with sharded weights"):
        in_training(ModelConfig(path="m", quantization="4bit", device="cuda"), device="cpu")


@pytest.mark.slow
def test_an_adapter_on_packed_weights_is_trained_and_resumed(make_config: Configure, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options: dict[str, Any] = {"lora": {"rank": 4}, "model": {"quantization": "4bit"}, "beta": 0.05}
    whole = train(make_config(tmp_path / "whole", **options))
    train(make_config(tmp_path / "cut", **options, steps=2))
    cut = train(make_config(tmp_path / "cut", **options), resume=True)
    assert records(cut) == records(whole)
    assert not (whole / "model" / "model.safetensors").exists(), "nothing can be merged into 4 bits"
    trained = adapter_weights(whole / "model")
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert any(bool(value.any()) for name, value in trained.items() if "lora_B" in name)
    loaded, _ = load_model(ModelConfig(path=whole / "model", device="cpu"))
    base, _ = load_model(ModelConfig(path=load_policy(), device="cpu"))
    changed = [name for name, value in base.state_dict().items() if not torch.equal(value, loaded.state_dict()[name])]
    assert changed
    assert all("_proj" in name for name in changed)
