"""The configs that ship: every one is read, and those of the paper's models say what was published.

The table of docs/recipes.md holds the published values; every effective setting of the recipes is compared with it.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.config import RunConfig
from calibadv.data.prepare.datasets import COUNTS, DATASETS, published_count

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
PAPER = {
    "qwen2.5-3b": "Qwen/Qwen2.5-3B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
}
OF_THE_MODEL = {"model.path", "training.output", "data.train", "data.test", "retrieval.url"}
"""Which model and which files: nothing that a table could compare."""


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("CALIBADV_MINIWIKI", "/data/miniwiki")
    return RunConfig.read(path)


def leaves(settings: Mapping[str, Any], *, where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, where=f"{where}{name}.")
        else:
            yield where + name, value


def published_rows() -> dict[str, tuple[str, str, str]]:
    """Published value, our value where it differs, and source, by setting."""
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").split("## The published settings")[1]
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \| (?:`([^`]+)` )?\| (.+) \|$", text, re.MULTILINE)
    return {name: (value, ours, source) for name, value, ours, source in rows}


def ours_to_choose() -> set[str]:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    paragraph = text.split("Ours to choose")[1].split("\n\n")[0]
    return set(re.findall(r"`([a-z_]+\.[a-z_.]+)`", paragraph))


def value_of(text: str) -> Any:
    return None if text == "not set" else tomllib.loads(f"value = {text}")["value"]


def differences(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Every effective setting that is neither what the table says nor, where it says nothing, the default."""
    rows, free = published_rows(), ours_to_choose() | OF_THE_MODEL
    minimal = {"model": {"path": "x"}, "retrieval": {"corpus": "x"}}
    defaults = dict(leaves(RunConfig.from_mapping(minimal).effective()))
    wanted = defaults | {name: value_of(ours or published) for name, (published, ours, _) in rows.items()}
    wrong = {}
    for name, value in leaves(config.effective()):
        section = name.split(".")[0]
        if name not in free and section not in ("sft", "data", "retrieval") and value != wanted[name]:
            wrong[name] = (value, wanted[name])
    return wrong


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_is_read_and_goes_into_a_folder_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(path, monkeypatch)
    config.check_trainable()
    # runs/lab is where the comparison of the lab lies.
    name = "lab-run" if path.stem == "lab" else path.stem
    assert config.training.output == CONFIGS.parent / "runs" / name
    text = path.read_text("utf-8")
    assert f"configs/{path.name}" in text, "the head of a config says how it is used"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_passes_a_dry_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALIBADV_MINIWIKI", "/data/miniwiki")
    assert main(["train", str(path), "--dry-run", "--verbose"]) == 0
    assert "questions_per_batch = " in capsys.readouterr().out


@pytest.mark.parametrize("name", PAPER)
def test_every_setting_of_the_recipes_of_the_papers_models_is_the_published_one_or_says_why_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(CONFIGS / f"{name}.toml", monkeypatch)
    assert config.model.path == PAPER[name]
    assert differences(config) == {}


def test_the_comparison_sees_a_changed_setting_whether_the_table_names_it_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = ["training.mini_batches=2", "training.steps=410", "rollout.search_retries=3"]
    config = RunConfig.read(CONFIGS / "qwen2.5-7b.toml", overrides=[*changed, "training.save_every=0"])
    assert set(differences(config)) == {"training.mini_batches", "training.steps", "rollout.search_retries"}


def test_the_table_names_settings_that_exist_and_gives_a_reason_for_every_difference() -> None:
    rows = published_rows()
    known = dict(leaves(RunConfig.from_mapping({"model": {"path": "x"}, "retrieval": {"corpus": "x"}}).effective()))
    assert len(rows) > 30
    assert set(rows) | ours_to_choose() <= set(known)
    assert not set(rows) & ours_to_choose()
    differing = {name: source for name, (_, ours, source) in rows.items() if ours}
    assert set(differing) == {"rollout.max_observation_tokens", "rollout.think_prefill", "rollout.prompt"}
    assert all(len(source.split()) >= 4 for source in differing.values())


def test_the_published_numbers_fit_together() -> None:
    """205 batches of ten updates are one pass over the training questions, half of the schedule's 410 batches."""
    published = {name: value_of(value) for name, (value, _, _) in published_rows().items()}
    rollouts = published["training.questions_per_batch"] * published["training.num_rollouts"]
    assert rollouts / published["training.mini_batches"] == 256
    questions = COUNTS["hotpotqa"]["train"] + COUNTS["2wikimultihopqa"]["train"]
    batches = questions // published["training.questions_per_batch"]
    assert (questions, batches) == (105_447, 205)
    assert published["training.steps"] == batches * published["training.mini_batches"] * published["training.epochs"]
    assert published["training.lr_decay_steps"] == 410 * published["training.mini_batches"]
    rows = [published_count(name, "test") for name in DATASETS]
    assert sum(count for count in rows if count is not None) == 51_713


@pytest.mark.parametrize("name", PAPER)
def test_eight_and_sixteen_processes_share_a_batch_evenly_and_turns_fit_into_the_context(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(CONFIGS / f"{name}.toml", monkeypatch)
    assert config.training.questions_per_batch % 16 == 0
    rollout = config.rollout
    longest = (
        rollout.max_searches + 1
    ) * rollout.max_turn_tokens + rollout.max_searches * rollout.max_observation_tokens
    assert config.model.max_context is not None
    assert longest + 500 <= config.model.max_context, "the prompt takes some 300 tokens"


def test_the_single_gpu_recipe_trains_an_adapter_with_ten_updates_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(CONFIGS / "qwen2.5-3b-lora.toml", monkeypatch)
    assert config.lora.rank == 16
    assert config.training.updates_per_batch == 10
