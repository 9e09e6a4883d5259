"""A tiny run on disk: questions, a corpus, a config, and a model folder that is never loaded."""

import json

import pytest

import calibadv.runs.evaluate
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


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(i), "question": f"Capital number {i}?", "golden_answers": ["Paris"]} for i in range(4)]
    write_jsonl(tmp_path / "geo.train.jsonl", rows)
    write_jsonl(tmp_path / "geo.test.jsonl", rows)
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG, "utf-8")
    return path


@pytest.fixture
def script(monkeypatch):
    """Replaces the model by a script; returns what was loaded."""
    loaded = []

    def install(script):
        def open_policy(config, *, threads=None):
            loaded.append(config.path)
            tokenizer = CharTokenizer()
            return OpenedPolicy(policy=ScriptedPolicy(script, tokenizer=tokenizer), tokenizer=tokenizer)

        monkeypatch.setattr(calibadv.runs.evaluate, "open_policy", open_policy)
        return loaded

    return install
