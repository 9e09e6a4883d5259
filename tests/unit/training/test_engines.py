"""From the [model] section to a policy: what is refused, and what is opened."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, Literal

import pytest

from calibadv.config import RunConfig
from calibadv.errors import ConfigError
from calibadv.lab import LabWorld, load_policy
from calibadv.lab.questions import make_questions
from calibadv.models.config import ModelConfig, check_trainable_engine
from calibadv.models.open_policy import open_policy, read_engine_args, read_key
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import RolloutConfig, rollout
from calibadv.trajectory import Document

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "vllm-server"}, r'model\.engine "vllm-server" needs model\.url'),
        ({"engine": "openai", "url": "127.0.0.1:8000"}, r"model\.url must be an http or https address"),
        ({"engine": "openai", "url": "http://me:key@host"}, r"model\.url must not hold a key"),
        (
            {"url": URL},
            r'model\.url is for the engines "vllm-server" and "openai", but model\.engine is "transformers"',
        ),
        ({"engine": "vllm", "url": URL}, r"model\.url is for the engines"),
        ({"engine_args": ("a=1",)}, r'model\.engine_args is for model\.engine "vllm"'),
        ({"engine": "vllm-server", "url": URL, "tokenizer": "x"}, r'model\.tokenizer is for model\.engine "openai"'),
        ({"served_name": "x"}, r'model\.served_name is for model\.engine "vllm-server" or "openai"'),
        ({"api": "chat"}, r'model\.api is for model\.engine "openai"'),
        ({"max_rows": 0}, r"model\.max_rows must be >= 1, got 0"),
        ({"max_context": 1}, r"model\.max_context must be >= 2"),
        ({"retries": -1}, r"model\.retries must be >= 0"),
        ({"timeout_s": 0}, r"model\.timeout_s must be > 0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(path="m", **settings)


def test_the_settings_can_be_written_in_a_config() -> None:
    sections = {
        "model": {"path": "org/name", "engine": "openai", "url": URL, "max_rows": 3},
        "retrieval": {"corpus": "c"},
    }
    config = RunConfig.from_mapping(sections, overrides=["model.api=chat"])
    assert (config.model.engine, config.model.url, config.model.api) == ("openai", URL, "chat")
    with pytest.raises(ConfigError, match=r"model\.engine"):
        RunConfig.from_mapping(sections, overrides=["model.engine=sglang"])


def test_engine_arguments_are_names_and_values() -> None:
    assert read_engine_args(("a=1", "b=true", "c=some text", "d=[1, 2]")) == {
        "a": 1, "b": True, "c": "some text", "d": [1, 2],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="must hold name=value"):
        read_engine_args(("--tensor-parallel-size 2",))


def test_training_refuses_engines_that_it_does_not_update() -> None:
    check_trainable_engine(ModelConfig(path="m"))
    with pytest.raises(ConfigError, match=r"openai.*cannot be trained.*token ids"):
        check_trainable_engine(ModelConfig(path="m", engine="openai", url=URL))
    check_trainable_engine(ModelConfig(path="m", engine="vllm"))
    with pytest.raises(ConfigError, match=r'"vllm-server" is for evaluation.*"transformers" or "vllm"'):
        check_trainable_engine(ModelConfig(path="m", engine="vllm-server", url=URL))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig(path="m", engine="openai", url="http://example.org")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert read_key(config) is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with caplog.at_level(logging.WARNING):
        assert read_key(config) == "sk-secret"
    assert "unencrypted" in caplog.text
    assert "sk-secret" not in caplog.text
    with pytest.raises(ConfigError, match=r"model\.api_key_env OTHER_KEY: the environment has no such variable"):
        read_key(ModelConfig(path="m", engine="openai", url=URL, api_key_env="OTHER_KEY"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_named_before_a_model_is_unpacked_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(ConfigError, match=r'model\.engine "vllm" needs vLLM.*docs/engines\.md'),
    ):
        open_policy(ModelConfig(path=load_policy(), engine="vllm"))
    assert "plain model folder" not in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_transformers_engine_plays_in_every_precision(dtype: Literal["float32", "bfloat16", "float16"]) -> None:
    documents = [Document(id=f"d{i}", title=f"T{i}", text="a town by the river .") for i in range(3)]
    questions = make_questions(LabWorld.make(901), "test", count=2)
    config = RolloutConfig(prompt="question", top_k=2, max_searches=2, max_turn_tokens=48, max_context_tokens=512)
    with open_policy(ModelConfig(path=load_policy(), device="cpu", dtype=dtype, max_rows=3)) as opened:
        assert opened.policy.max_rows == 3  # type: ignore[attr-defined]
        result = rollout(
            questions, num_rollouts=2, policy=opened.policy, retriever=ListRetriever(documents), config=config, seed=0,
            tokenizer=opened.tokenizer,
        )  # fmt: skip
    assert result.counters["searches"] > 0
    assert all(turn.logprobs for t in result.trajectories for turn in t.turns)


def test_a_context_longer_than_the_model_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_context must be in \[2, 1024\]"):
        open_policy(ModelConfig(path=load_policy(), device="cpu", max_context=2048))


def test_a_model_folder_without_tokenizer_is_refused_by_every_engine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for settings in ({}, {"engine": "vllm"}, {"engine": "vllm-server", "url": URL}):
        with pytest.raises(ConfigError, match="has no tokenizer"):
            open_policy(ModelConfig(path=tmp_path, **settings))  # type: ignore[arg-type]


def test_a_key_that_fits_no_header_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nkey")
    config = ModelConfig(path="m", engine="openai", url="https://example.org")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY must be printable ASCII") as error:
        open_policy(config)
    assert "secret" not in str(error.value)
