"""A run whose reward, estimator, retriever and engine come from a stranger's module in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibadv.config import RunConfig
from calibadv.data.run_files import read_metrics
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError
from calibadv.retrieval.base import Hit
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.runs.train import train

MODULE = """
from calibadv.retrieval import BM25Retriever
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.rollout.policies.transformers import TransformersPolicy

calls = []

def reward(trajectory):
    return 10.0 + len(trajectory.turns) + trajectory.rollout_index

def estimator(batch):
    return batch.per_turn(batch.rewards_N - 12.0)

class Retriever:
    def __init__(self):
        self.inner = BM25Retriever.from_documents(read_corpus("corpus.jsonl"))
    def search(self, queries, k):
        calls.append(len(queries))
        return self.inner.search(queries, k)

def engine(config, *, tokenizer, model):
    assert model is not None
    return TransformersPolicy(model, tokenizer.inner)
"""
OWN = {
    "reward.function": "a_strangers_code:reward",
    "calibration.estimator": "a_strangers_code:estimator",
    "retrieval.retriever": "a_strangers_code:Retriever",
    "model.engine": "a_strangers_code:engine",
}
SMALL = {"steps": 2, "questions_per_batch": 2, "num_rollouts": 2, "mini_batches": 1, "threads": 1}


@pytest.fixture
def folder(tmp_path: Path, lab_run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a world and the stranger's module."""
    lab_run(tmp_path)
    (tmp_path / "a_strangers_code.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(folder: Path, lab_run: Callable[..., dict[str, Any]], **training: Any) -> dict[str, Any]:
    sections = lab_run(folder, training=SMALL | {"output": str(folder / "run")} | training)
    return dict(sections)


def test_all_four_are_named_in_the_config_used_and_recorded(folder: Path, lab_run: Callable[..., Any]) -> None:
    sections = config_of(folder, lab_run)
    sections["retrieval"] = {}
    overrides = [f"{setting}={path}" for setting, path in OWN.items()]
    out = train(RunConfig.from_mapping(sections, overrides=overrides))
    (first, *_), record = read_metrics(out), json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert first["reward"] > 10
    assert {setting: own["object"] for setting, own in record["own"].items()} == OWN
    assert all(own["file"] == str(folder / "a_strangers_code.py") for own in record["own"].values())
    assert all(len(own["sha256"]) == 64 for own in record["own"].values())
    records = [r for path in sorted((out / "trajectories").iterdir()) for r in read_trajectories(path)]
    assert records
    for row in records:
        assert row.credit is not None
        assert row.credit.reward == 10 + len(row.trajectory.turns) + row.trajectory.rollout_index
        assert row.credit.advantages == (row.credit.reward - 12.0,) * len(row.trajectory.turns)


def test_objects_in_python_take_the_place_of_the_settings(folder: Path, lab_run: Callable[..., Any]) -> None:
    config = RunConfig.from_mapping(config_of(folder, lab_run, steps=1))
    inner = BM25Retriever.from_documents(read_corpus(folder / "corpus.jsonl"))
    asked: list[str] = []

    class Counting:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            asked.extend(queries)
            return inner.search(queries, k)

    out = train(
        config,
        reward=lambda trajectory: float(trajectory.rollout_index),
        estimator=lambda batch: batch.per_turn(batch.rewards_N * 2 - 1),
        retriever=Counting(),
    )
    assert read_metrics(out)[0]["reward"] == 0.5
    assert asked
    own = json.loads((out / "run.json").read_text(encoding="utf-8"))["own"]
    assert set(own) == {"reward.function", "calibration.estimator", "retrieval.retriever"}


@pytest.mark.parametrize("setting", sorted(OWN))
def test_a_wrong_path_is_refused_before_anything_is_written(
    setting: str, folder: Path, lab_run: Callable[..., Any]
) -> None:
    sections = config_of(folder, lab_run)
    if setting == "retrieval.retriever":
        sections["retrieval"] = {}
    with pytest.raises(ConfigError, match=f"{setting} 'a_strangers_code:nothing': the module .* has no nothing"):
        train(RunConfig.from_mapping(sections, overrides=[f"{setting}=a_strangers_code:nothing"]))
    assert not (folder / "run").exists()


def test_a_reward_that_is_no_number_stops_the_run_with_the_setting(folder: Path, lab_run: Callable[..., Any]) -> None:
    config = RunConfig.from_mapping(config_of(folder, lab_run))
    with pytest.raises(ConfigError, match=r"reward.function .* returned nan for question"):
        train(config, reward=lambda trajectory: float("nan"))
