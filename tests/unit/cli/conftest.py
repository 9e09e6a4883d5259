"""A tiny run on disk: questions, a corpus, a config, and a model folder of which only the tokenizer is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv.models.config import ModelConfig
from calibadv.rollout import ScriptedPolicy, Tokenizer

CONFIG = """
[model]
path = "./model"
[data]
train = ["geo.train.jsonl"]
test = ["geo.test.jsonl"]
[retrieval]
corpus = "corpus.jsonl"
[rollout]
prompt = "question"
top_k = 2
max_searches = 2
search_retries = 0
[training]
steps = 2
questions_per_batch = 2
save_every = 0
output = "run"
"""
CORPUS = [
    {"id": "1", "title": "Paris", "text": "Paris is the capital of France."},
    {"id": "2", "title": "Rome", "text": "Rome is the capital of Italy."},
    {"id": "3", "title": "Bern", "text": "Bern is where the Swiss government sits."},
]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
SPACE, END_OF_LINE = "\u0120", "\u010a"
CHARACTERS = [*map(chr, range(ord("!"), ord("~") + 1)), SPACE, END_OF_LINE, "<pad>"]
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": BYTES,
    "decoder": BYTES,
    "model": {"type": "BPE", "vocab": {text: number for number, text in enumerate(CHARACTERS)}, "merges": []},
}
"""A token for each character of ASCII."""
Script = Callable[[int, int], str]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def write_model() -> Callable[[Path], Path]:
    """Makes a folder that looks like a model's; its tokenizer can be loaded."""
    return make_model


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    loading = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(loading))
    return folder


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(i), "question": f"Capital number {i}?", "golden_answers": ["Paris"]} for i in range(4)]
    write_jsonl(tmp_path / "geo.train.jsonl", rows)
    write_jsonl(tmp_path / "geo.test.jsonl", rows)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    make_model(tmp_path / "model")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG, "utf-8")
    return path


@pytest.fixture
def script(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], list[ModelConfig]]:
    """Makes a script the engine of the config; ``--engine scripted:engine`` names it where there is no config.

    Gives the list of the [model] sections for which the engine is opened.
    """
    pytest.importorskip("transformers")
    opened: list[ModelConfig] = []
    played: list[Script] = []

    def engine(config: ModelConfig, *, tokenizer: Tokenizer, model: object) -> ScriptedPolicy:
        opened.append(config)
        return ScriptedPolicy(played[-1], tokenizer=tokenizer)

    def install(play: Script) -> list[ModelConfig]:
        played.append(play)
        return opened

    module = ModuleType("scripted")
    vars(module)["engine"] = engine
    monkeypatch.setitem(sys.modules, "scripted", module)
    config_file.write_text(CONFIG.replace("[model]", '[model]\nengine = "scripted:engine"'), "utf-8")
    return install


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``absent("torch")``: as if a package were not installed."""
    import importlib.util

    find_spec = importlib.util.find_spec

    def hide(package: str) -> None:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *args: None if name == package else find_spec(name, *args)
        )

    return hide
