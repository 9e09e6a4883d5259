"""Pretraining, the packaged weights, the probe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.lab import PRESETS, LabWorld, PretrainConfig, load_policy
from calibadv.lab.base_policy.presets import PolicyShape
from calibadv.lab.base_policy.tokenizer import vocabulary

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from calibadv.lab.base_policy.initialise import CONSTANT, ONE_BACK_LAYERS  # noqa: E402 - they need torch
from calibadv.lab.base_policy.pretrain import FIRST_PRETRAINING_WORLD, make_model, pretrain  # noqa: E402
from calibadv.lab.base_policy.probe import ProbeConfig, RandomDocuments, probe, probe_table  # noqa: E402

TINY = PretrainConfig(
    shape=PolicyShape(hidden_size=32, num_layers=2, num_heads=2, ff_size=64),
    steps=40,
    mistake_steps=4,
    batch_tokens=400,
    warmup_steps=5,
    world_size=60,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(replace(TINY, output_dir=str(tmp_path_factory.mktemp("tiny"))))


def weights_of(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_loss_falls_within_forty_steps(tiny_policy: Path) -> None:
    log = json.loads((tiny_policy / "pretrain.json").read_text(encoding="utf-8"))["log"]["reading"]
    losses = [line["loss"] for line in log]
    assert len(losses) == 40
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.5


def test_pretraining_again_gives_the_same_weights(tiny_policy: Path, tmp_path: Path) -> None:
    again = weights_of(pretrain(replace(TINY, output_dir=str(tmp_path))))
    first = weights_of(tiny_policy)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights_of(pretrain(replace(TINY, output_dir=str(tmp_path / "other"), seed=2, steps=1, mistake_steps=1)))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_policy_is_saved_before_and_after_it_learned_mistakes(tiny_policy: Path) -> None:
    names = {path.name for path in (tiny_policy / "reading").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "pretrain.json"} <= names
    assert (
        hashlib.sha256((tiny_policy / "model.safetensors").read_bytes()).hexdigest()
        == json.loads((tiny_policy / "pretrain.json").read_text(encoding="utf-8"))["sha256"]
    )


def test_initial_attention_looks_at_similar_tokens_and_one_back() -> None:
    model = make_model(PretrainConfig())
    embeddings = model.model.embed_tokens.weight
    assert torch.equal(embeddings[:, 0], torch.full_like(embeddings[:, 0], CONSTANT))
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        assert torch.equal(attention.o_proj.weight, attention.v_proj.weight.T)
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight) == (number >= ONE_BACK_LAYERS)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        ids = torch.randint(3, len(vocabulary()), (1, 40), generator=torch.Generator().manual_seed(0))
        heads = model(ids, output_attentions=True).attentions[0][0]  # [heads, to, from]
    before = heads[:, torch.arange(1, 40), torch.arange(0, 39)].mean(-1)
    assert (before[:2] > 0.6).all()
    assert (before[2:] < 0.3).all()


@pytest.mark.slow
def test_the_large_preset_trains_for_a_few_steps(tmp_path: Path) -> None:
    large = PRESETS["lab-large"]()
    model = make_model(large)
    assert 10e6 < sum(p.numel() for p in model.parameters()) < 30e6
    small_steps = replace(
        large, steps=2, mistake_steps=1, batch_tokens=300, warmup_steps=1, world_size=60, output_dir=str(tmp_path)
    )
    assert (pretrain(small_steps) / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"lr": 0.0}, "lr must be > 0"),
        ({"top_k": ()}, "top_k must not be empty"),
        ({"drills_end": 1.5}, "drills_end must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **changes)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size"):
        PolicyShape(hidden_size=30, num_heads=4)


def test_the_packaged_policy_is_what_its_record_says() -> None:
    folder = load_policy()
    record = json.loads((folder / "pretrain.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == record["sha256"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert sum(p.numel() for p in model.parameters()) == record["parameters"] < 4e6
    assert model.config.vocab_size == len(vocabulary())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    assert record["config"]["steps"] == PRESETS["default"]().steps


def test_random_documents_depend_on_the_query_only() -> None:
    documents = LabWorld.make(3, size=60).documents
    retriever = RandomDocuments(documents, seed=1)
    first, second = retriever.search(["a", "b"], 3)
    assert retriever.search(["b"], 3) == [second]
    assert first != second
    assert len({hit.document.id for hit in first}) == 3


def test_the_probe_of_a_policy_that_cannot_read_says_so(tiny_policy: Path) -> None:
    config = ProbeConfig(
        num_questions=6, seen_worlds=(FIRST_PRETRAINING_WORLD,), unseen_worlds=(901,), world_size=60, max_turn_tokens=8
    )
    result = probe(tiny_policy, config=config)
    assert not result["reads"]
    assert set(result["conditions"]) == {"training worlds", "unseen worlds", "random documents"}
    assert result["conditions"]["unseen worlds"]["questions"] == 6
    assert "does not pass as a reader" in probe_table(result)


def test_a_table_of_a_probe_has_a_cell_in_every_column_and_a_dash_for_what_was_not_asked() -> None:
    figure = {"mean": 0.5, "se": 0.1}
    row = {"f1": figure, "em": figure, "format": figure}
    asked = {"training worlds": {"1-hop": figure}, "random documents": {"1-hop": figure, "2-hop": figure}}
    conditions = {name: row | {"f1_by_type": by_type} for name, by_type in asked.items()}
    table = probe_table({"conditions": conditions, "reads": True, "unseen_share": 1.0}).split("\n\n")[0].splitlines()
    assert table == [
        "| | F1 | EM | format | F1 1-hop | F1 2-hop |",
        "|---|---|---|---|---|---|",
        "| training worlds | 0.500 ± 0.100 | 0.500 ± 0.100 | 0.50 | 0.500 | - |",
        "| random documents | 0.500 ± 0.100 | 0.500 ± 0.100 | 0.50 | 0.500 | 0.500 |",
    ]


def test_a_probe_of_one_question_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_questions must be >= 2"):
        ProbeConfig(num_questions=1)


def test_the_packaged_policy_reads_a_world_it_never_saw() -> None:
    config = ProbeConfig(num_questions=40, seen_worlds=(FIRST_PRETRAINING_WORLD,), unseen_worlds=(903,))
    conditions = probe(load_policy(), config=config)["conditions"]
    assert conditions["unseen worlds"]["f1"]["mean"] > 0.15
    assert conditions["random documents"]["f1"]["mean"] < 0.15
    assert conditions["unseen worlds"]["format"]["mean"] > 0.6


@pytest.mark.slow
def test_the_packaged_policy_passes_the_full_probe() -> None:
    result = probe(load_policy())
    assert result["reads"], probe_table(result)
    unseen = result["conditions"]["unseen worlds"]
    assert 0.2 <= unseen["f1"]["mean"] <= 0.5
    assert 0.70 <= unseen["format"]["mean"] <= 0.95
