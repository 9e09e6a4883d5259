"""Every field of TRL's configuration either changes a run or is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from trl import GRPOConfig

from calibadv.errors import ConfigError
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.overrides.trl_fields import NEEDS, OF_THE_TRAINER, WITH_EFFECT, WITHOUT_EFFECT
from calibadv.training.trainer import CalibAdvTrainer

TABLES = (WITHOUT_EFFECT, NEEDS, WITH_EFFECT, OF_THE_TRAINER)
ADAPTIVE = {"use_adaptive_entropy": True, "entropy_coef": 0.1, "entropy_target": 10.0}
SYNCED = {"beta": 0.5, "sync_ref_model": True, "ref_model_sync_steps": 1}
Options = dict[str, Any]
CHANGES: dict[str, tuple[Options, Options]] = {
    "beta": ({"beta": 0.5}, {}),
    "use_bias_correction_kl": ({"use_bias_correction_kl": False}, {"beta": 0.5}),
    "sync_ref_model": ({"sync_ref_model": True, "ref_model_sync_steps": 1}, {"beta": 0.5}),
    "ref_model_sync_steps": ({"ref_model_sync_steps": 3}, SYNCED),
    "ref_model_mixup_alpha": ({"ref_model_mixup_alpha": 0.1}, SYNCED),
    "disable_dropout": ({"disable_dropout": True}, {}),
    "entropy_coef": ({"entropy_coef": 0.5}, {}),
    "use_adaptive_entropy": (ADAPTIVE, {"entropy_coef": 0.1}),
    "entropy_target": ({"entropy_target": 1.0}, ADAPTIVE),
    "entropy_coef_min": ({"entropy_coef_min": 0.099}, ADAPTIVE | {"entropy_target": 0.01}),
    "entropy_coef_max": ({"entropy_coef_max": 0.1}, ADAPTIVE | {"entropy_coef_delta": 0.5}),
    "entropy_coef_delta": ({"entropy_coef_delta": 0.5}, ADAPTIVE),
    "top_entropy_quantile": ({"top_entropy_quantile": 0.2}, {}),
    "epsilon": ({"epsilon": 1e-4}, {}),
    "epsilon_high": ({"epsilon_high": 1e-4}, {}),
    "delta": ({"delta": 1.0001}, {}),
    **{
        name: ({name: 1.5}, {"loss_type": name.split("_")[0], "learning_rate": 1e-3})
        for name in (
            "sapo_temperature_pos", "sapo_temperature_neg", "vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos",
            "vespo_lambda_neg",
        )
    },
    "loss_type": ({"loss_type": "grpo"}, {}),
    "importance_sampling_level": ({"importance_sampling_level": "sequence"}, {"loss_type": "grpo"}),
    "off_policy_mask_threshold": ({"off_policy_mask_threshold": 1e-6}, {}),
    "max_completion_length": ({"max_completion_length": 7}, {"loss_type": "dr_grpo"}),
    "num_generations": ({"num_generations": 2}, {}),
    "num_iterations": ({"num_iterations": 2}, {}),
    "temperature": ({"temperature": 0.7}, {}),
    "top_p": ({"top_p": 0.5}, {"policy": None, "entropy_coef": 0.5}),
}  # fmt: skip
"""Field -> a change of it, and what it needs: with and without the change, runs must end differently."""
ELSEWHERE = {
    "log_completions", "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo",
    "router_aux_loss_coef", "use_vllm",
    *(name for name, (other, _) in NEEDS.items() if other == "use_vllm"),
}  # fmt: skip
"""What changes no weights of a dense model: logs; the auxiliary loss of experts; vLLM."""


def test_the_tables_hold_every_field_of_trl_once() -> None:
    held = Counter(name for table in TABLES for name in table)
    theirs = {field.name for field in fields(GRPOConfig)}
    own = {field.name for field in fields(CalibAdvConfig)} - theirs
    assert set(held) - own == theirs, "decide what a new field does here"
    assert max(held.values()) == 1


def test_only_fields_of_transformers_are_left_to_its_trainer() -> None:
    assert {field.name for field in fields(TrainingArguments)} >= OF_THE_TRAINER


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_field_without_effect_is_refused_by_name(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} = 'another' would have no effect: .*Leave it out") as caught:
        CalibAdvConfig(**(settings | {name: "another"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NEEDS)
def test_field_is_refused_while_what_it_needs_is_not_there(settings: dict[str, Any], name: str) -> None:
    other, _ = NEEDS[name]
    unmet = {"loss_type": "sapo" if name.startswith("vespo") else "vespo"}.get(other)
    with pytest.raises(ConfigError, match=rf"^{name} = 0.123 would have no effect: it needs {other} "):
        CalibAdvConfig(**(settings | ({other: unmet} if unmet else {}) | {name: 0.123}))


def test_every_field_with_an_effect_has_its_test() -> None:
    assert set(CHANGES) | ELSEWHERE == set(NEEDS) | set(WITH_EFFECT)


def with_dropout(model: Any) -> Any:
    """The model with a dropout layer after its embedding."""
    model.dropout = torch.nn.Dropout(0.3)
    model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: model.dropout(output))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_field_changes_the_run(
    make_trainer: Callable[..., CalibAdvTrainer], make_model: Callable[[], Any], name: str, tmp_path: Path
) -> None:
    change, needed = CHANGES[name]

    def trained(folder: str, **options: Any) -> tuple[torch.Tensor, list[Any]]:
        model = with_dropout(make_model()) if name == "disable_dropout" else make_model()
        options = {"old_logprobs": "recomputed", "output_dir": str(tmp_path / folder)} | options
        trainer = make_trainer(model=model, **options)
        torch.manual_seed(0)
        trainer.train()
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return weights, [log.get("entropy_coef") for log in trainer.state.log_history]

    (changed, changed_log), (plain, plain_log) = trained("with", **needed | change), trained("without", **needed)
    assert not torch.equal(changed, plain) or changed_log != plain_log


def test_samples_are_logged(make_trainer: Callable[..., CalibAdvTrainer], capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(log_completions=True, num_completions_to_print=1)
    trainer.train()
    assert len(list((trainer.run_dir / "completions").iterdir())) == 4
    assert "who wrote book" in capsys.readouterr().out
