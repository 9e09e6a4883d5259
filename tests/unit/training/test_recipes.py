"""The configs that ship: every one is read, and those of the paper's models say what the paper says."""

from pathlib import Path

import pytest

from calibadv.config import RunConfig

CONFIGS = Path(__file__).parents[3] / "configs"
PAPER = {
    "qwen2.5-3b": "Qwen/Qwen2.5-3B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
}


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("CALIBADV_MINIWIKI", "/data/miniwiki")
    return RunConfig.read(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_is_read_and_goes_into_a_folder_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(path, monkeypatch)
    config.check_trainable()
    # runs/lab is where the comparison of the lab lies.
    name = "lab-run" if path.stem == "lab" else path.stem
    assert config.training.output == CONFIGS.parent / "runs" / name
    text = path.read_text("utf-8")
    assert f"configs/{path.name}" in text, "the head of a config says how it is used"


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_papers_models_have_the_papers_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(CONFIGS / f"{name}.toml", monkeypatch)
    training, rollout = config.training, config.rollout
    assert config.model.path == PAPER[name]
    assert config.model.dtype == "bfloat16"
    assert (training.questions_per_batch, training.num_rollouts, training.steps) == (512, 5, 410)
    assert training.questions_per_batch // training.mini_batches == 256
    assert (training.learning_rate, training.lr_schedule, training.warmup_steps) == (5e-7, "cosine", 0)
    assert (training.clip, training.max_grad_norm, training.epochs, training.loss_type) == (0.2, 1.0, 1, "dapo")
    assert (rollout.temperature, rollout.top_k, rollout.max_searches, rollout.max_turn_tokens) == (1.0, 3, 4, 1024)
    assert rollout.max_observation_tokens == 2048
    assert rollout.think_prefill
    assert config.reward.score == "f1"
    assert config.active_calibration is config.calibration
    assert config.active_calibration.rebalance_coef == 1.0
    assert (training.questions_per_batch * training.num_rollouts) % 8 == 0, "eight processes share the batch"
    assert (training.questions_per_batch // training.mini_batches) % 8 == 0


def test_the_single_gpu_recipe_trains_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(CONFIGS / "qwen2.5-3b-lora.toml", monkeypatch)
    assert config.lora.rank == 16
