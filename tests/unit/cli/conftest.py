"""A tiny run on disk: questions, a corpus, a config, and a model folder that is never loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import calibadv.runs.evaluate
from calibadv.models.config import ModelConfig
from calibadv.models.open_policy import OpenedPolicy
from calibadv.rollout import CharTokenizer, ScriptedPolicy

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
Script = Callable[[int, int], str]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def write_model() -> Callable[[Path], Path]:
    """Makes a folder that looks like a model's."""
    return make_model


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
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
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], list[ModelConfig]]:
    """Replaces the model by a script; gives the list of the [model] sections that are opened."""
    opened: list[ModelConfig] = []

    def install(play: Script) -> list[ModelConfig]:
        def open_policy(config: ModelConfig, *, threads: int | None = None, engine: object = None) -> OpenedPolicy:
            opened.append(config)
            tokenizer = CharTokenizer()
            return OpenedPolicy(policy=ScriptedPolicy(play, tokenizer=tokenizer), tokenizer=tokenizer)

        monkeypatch.setattr(calibadv.runs.evaluate, "open_policy", open_policy)
        return opened

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
