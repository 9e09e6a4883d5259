"""The wording of the prompt from a file, and values for the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calibadv.config import RunConfig
from calibadv.dialogue.prompt import prompt_template
from calibadv.errors import ConfigError
from calibadv.lab import load_policy
from calibadv.models.config import ModelConfig
from calibadv.models.load import load_tokenizer
from calibadv.rollout import CharTokenizer, HFTokenizer, RolloutConfig
from calibadv.rollout.policies.text_tokenizer import TextTokenizer
from calibadv.rollout.prompts import make_prompts
from calibadv.rollout.tokenizer_checks import check_tokenizer, rendering_problems
from calibadv.runs.evaluate import manifest_of
from calibadv.runs.provenance import own_objects
from calibadv.trajectory import Question

QUESTION = Question(id="1", text="who wrote it?", golden_answers=("someone",))
QWEN3 = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is not defined or enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""A template like those of Qwen3, with thinking off by default."""


@pytest.fixture
def tokenizer() -> HFTokenizer:
    inner: Any = load_tokenizer(ModelConfig(path=load_policy()))
    inner.chat_template = QWEN3
    return HFTokenizer(inner)


def write_config(folder: Path, prompt: str) -> Path:
    text = f'[model]\npath = "."\n[retrieval]\ncorpus = "c.jsonl"\n[rollout]\nprompt = "{prompt}"\n'
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def prompt_of(config: RolloutConfig, tokenizer: Any) -> str:
    return make_prompts([QUESTION], num_rollouts=1, tokenizer=tokenizer, config=config)[0].text


def test_prompt_file_is_read_relative_to_the_config_and_played(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "mine.txt").write_text("Search, then answer. Q: {question}\n", encoding="utf-8")
    config = RunConfig.read(write_config(tmp_path, "file:prompts/mine.txt"))
    assert config.rollout.prompt == f"file:{tmp_path}/prompts/mine.txt"
    assert prompt_of(config.rollout, CharTokenizer()) == "Search, then answer. Q: who wrote it?\n<think>"
    assert RunConfig.from_mapping(config.effective()) == config


def test_text_of_a_prompt_file_stays_the_same_until_a_config_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("old {question}", encoding="utf-8")
    config = RunConfig.read(write_config(tmp_path, "file:mine.txt"))
    (tmp_path / "mine.txt").write_text("new {question}", encoding="utf-8")
    assert prompt_of(config.rollout, CharTokenizer()).startswith("old")
    RunConfig.read(write_config(tmp_path, "file:mine.txt"))
    assert prompt_of(config.rollout, CharTokenizer()).startswith("new")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"rollout.prompt \"file:.*mine.txt\": no such file"),
        (b"no placeholder", r"rollout.prompt .*mine.txt.* must hold \{question\} exactly once, got 0 times"),
        (b"\xff\xfe {question}", r"rollout.prompt .*mine.txt\" cannot be read as UTF-8"),
    ],
)
def test_prompt_file_that_cannot_be_used_is_refused_when_the_config_is_read(
    tmp_path: Path, text: bytes | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "mine.txt").write_bytes(text)
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig.read(write_config(tmp_path, "file:mine.txt"))
    assert "\n" not in str(caught.value)


def test_prompt_without_such_a_name_is_told_about_files() -> None:
    with pytest.raises(ConfigError, match=r'rollout.prompt must be one of search, question, or "file:PATH", got .nope'):
        prompt_template("nope")


def test_prompt_file_is_recorded_with_the_digest_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("{question}", encoding="utf-8")
    config = RunConfig.read(write_config(tmp_path, "file:mine.txt"))
    recorded = own_objects(config)["rollout.prompt"]
    assert recorded["file"] == str(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("{question}?", encoding="utf-8")
    config = RunConfig.read(write_config(tmp_path, "file:mine.txt"))
    assert own_objects(config)["rollout.prompt"]["sha256"] != recorded["sha256"]


def test_template_values_come_from_a_table_or_the_command_line() -> None:
    sections = {"model": {"path": "."}, "retrieval": {"corpus": "c"}}
    one = RunConfig.from_mapping(sections | {"rollout": {"chat_template_kwargs": {"enable_thinking": True}}})
    other = RunConfig.from_mapping(sections, overrides=["rollout.chat_template_kwargs.enable_thinking=true"])
    inline = RunConfig.from_mapping(sections, overrides=["rollout.chat_template_kwargs={enable_thinking = true}"])
    assert one == other == inline
    assert one.rollout.chat_template_kwargs == {"enable_thinking": True}
    assert "[rollout.chat_template_kwargs]\nenable_thinking = true\n" in one.to_toml()
    assert RunConfig.from_mapping(one.effective()).rollout == one.rollout
    with pytest.raises(ConfigError, match=r"rollout.chat_template_kwargs must be a table, got 3"):
        RunConfig.from_mapping(sections, overrides=["rollout.chat_template_kwargs=3"])


def test_template_values_reach_the_prompt_and_the_digest_of_the_template(tokenizer: HFTokenizer) -> None:
    sections = {"model": {"path": str(load_policy())}, "retrieval": {"corpus": "c"}}
    plain = RunConfig.from_mapping(sections | {"rollout": {"prompt": "question"}})
    thinking = RunConfig.from_mapping(
        sections | {"rollout": {"prompt": "question", "chat_template_kwargs": {"enable_thinking": True}}}
    )
    assert prompt_of(plain.rollout, tokenizer).endswith("<think>\n\n</think>\n\n<think>")
    assert prompt_of(thinking.rollout, tokenizer) == "<|user|>who wrote it?<|assistant|><think>"
    manifests = [
        manifest_of(config, split="test", questions=[QUESTION], index={}, tokenizer=tokenizer)
        for config in (plain, thinking)
    ]
    assert manifests[1]["rollout"]["chat_template_kwargs"] == {"enable_thinking": True}
    assert manifests[0]["prompt"]["chat_template_sha256"] != manifests[1]["prompt"]["chat_template_sha256"]


def test_value_that_the_template_would_ignore_is_refused(tokenizer: HFTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"chat_template_kwargs holds enable_thought, but .* does not use it"):
        prompt_of(RolloutConfig(chat_template_kwargs={"enable_thought": True}), tokenizer)
    with pytest.raises(ConfigError, match=r"chat_template_kwargs must not hold add_generation_prompt"):
        prompt_of(RolloutConfig(chat_template_kwargs={"add_generation_prompt": False}), tokenizer)
    without = HFTokenizer(tokenizer.inner, chat_template=False)
    with pytest.raises(ConfigError, match=r"holds enable_thinking, but there is no chat template"):
        prompt_of(RolloutConfig(chat_template_kwargs={"enable_thinking": True}), without)


@pytest.mark.parametrize("tokenizer_without", [CharTokenizer(), TextTokenizer(as_messages=True)])
def test_tokenizer_that_renders_no_template_refuses_values_for_it(tokenizer_without: Any) -> None:
    with pytest.raises(ConfigError, match=r"rollout.chat_template_kwargs .* cannot be used"):
        prompt_of(RolloutConfig(chat_template_kwargs={"enable_thinking": True}), tokenizer_without)


def test_prompt_that_ends_the_thinking_before_it_began_is_told_about(
    tokenizer: HFTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    check_tokenizer(tokenizer, name="m", rollout=RolloutConfig())
    assert "set it, such as rollout.chat_template_kwargs = {enable_thinking = true}" in caplog.text
    caplog.clear()
    check_tokenizer(tokenizer, name="m", rollout=RolloutConfig(chat_template_kwargs={"enable_thinking": True}))
    assert not caplog.text


def test_value_that_changes_nothing_is_told_about(tokenizer: HFTokenizer) -> None:
    config = RolloutConfig(chat_template_kwargs={"enable_thinking": False})
    assert any("enable_thinking = false changes nothing" in p for p in rendering_problems(tokenizer, rollout=config))
