"""The KL term against TRL's own path: same rollouts, same reference, same loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM
from trl import GRPOTrainer

from calibadv.config import RunConfig
from calibadv.data.run_files import read_metrics
from calibadv.errors import ConfigError
from calibadv.lab import load_policy
from calibadv.models.config import ModelConfig
from calibadv.models.load import load_tokenizer
from calibadv.models.lora import LoraConfig, add_adapter
from calibadv.models.reference import check_reference, load_reference
from calibadv.runs.trainer_args import loss_options
from calibadv.training.config import TrainingConfig
from calibadv.training.trainer import CalibAdvTrainer


class TrlReference(CalibAdvTrainer):
    """Reference and policy scored by TRL's own path, every position of padded rows."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        theirs = GRPOTrainer._generate_and_score_completions(self, inputs)
        ours = super()._generate_and_score_completions(inputs)
        mask = (ours["completion_mask"] * ours["tool_mask"]).bool()
        torch.testing.assert_close(ours["ref_per_token_logps"][mask], theirs["ref_per_token_logps"][mask])
        return ours | {"ref_per_token_logps": theirs["ref_per_token_logps"]}

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)


def weights(trainer: CalibAdvTrainer) -> torch.Tensor:
    model: Any = trainer.model
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def kl_of(trainer: CalibAdvTrainer) -> list[float]:
    return [line["kl"] for line in read_metrics(trainer.run_dir / "metrics.jsonl")]


@pytest.fixture
def nearby(make_model: Callable[[], LlamaForCausalLM]) -> LlamaForCausalLM:
    """A model of the same shape with somewhat other weights."""
    model = make_model()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("loss_type", ["dapo", "gspo", "cispo"])
def test_kl_term_trains_the_same_weights_as_trl(
    make_trainer: Callable[..., CalibAdvTrainer], nearby: LlamaForCausalLM, loss_type: Any, tmp_path: Path
) -> None:
    options = {**loss_options(TrainingConfig(loss_type=loss_type)), "old_logprobs": "recomputed"}
    folder = str(tmp_path / "{}").format
    ours = make_trainer(**options, beta=0.5, reference=copy.deepcopy(nearby), output_dir=folder("ours"))
    theirs = make_trainer(TrlReference, **options, beta=0.5, reference=nearby, output_dir=folder("theirs"))
    without = make_trainer(**options, output_dir=folder("without"))
    for trainer in (ours, theirs, without):
        trainer.train()
    torch.testing.assert_close(weights(ours), weights(theirs), atol=2e-5, rtol=1e-3)
    assert (weights(ours) - weights(without)).abs().max() > 1e-3
    assert kl_of(ours) == pytest.approx(kl_of(theirs), rel=1e-4)
    assert kl_of(ours)[0] > 1e-3
    assert kl_of(without) == [None, None]


def test_reference_is_the_model_as_training_found_it(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer(beta=0.1)
    before = weights(trainer)
    trainer.train()
    reference: Any = trainer.ref_model
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert torch.equal(torch.cat([p.flatten() for p in reference.parameters()]), before)
    assert not torch.equal(weights(trainer), before)
    assert kl_of(trainer)[-1] > 0


def test_reference_of_a_fresh_adapter_is_the_model_without_it(
    make_trainer: Callable[..., CalibAdvTrainer], make_model: Callable[[], LlamaForCausalLM]
) -> None:
    pytest.importorskip("peft")
    model = add_adapter(make_model(), settings=LoraConfig(rank=4), base="base")
    trainer = make_trainer(beta=0.1, model=model)
    assert list(trainer.policy_model.peft_config) == ["default"]
    trainer.train()
    kl = kl_of(trainer)
    assert 0 < kl[0] < kl[-1], "the second update of a batch already differs from the reference"


def test_reference_of_a_trained_adapter_is_that_adapter(
    make_trainer: Callable[..., CalibAdvTrainer], make_model: Callable[[], LlamaForCausalLM]
) -> None:
    pytest.importorskip("peft")
    model = add_adapter(make_model(), settings=LoraConfig(rank=4), base="base")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trainer = make_trainer(beta=0.1, model=model, learning_rate=1e-12)
    trainer.train()
    assert max(kl_of(trainer)) < 1e-6


def test_reference_with_the_same_tokenizer_is_loaded(tmp_path: Path) -> None:
    config = ModelConfig(path=load_policy(), device="cpu")
    check_reference(config, load_policy())
    assert load_reference(config, load_policy()).num_parameters() > 0


def test_reference_with_another_vocabulary_is_refused_in_one_line(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(path=load_policy()))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((load_policy() / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"training.reference .* has another vocabulary .* Name a model") as caught:
        check_reference(ModelConfig(path=load_policy()), tmp_path)
    assert "\n" not in str(caught.value)


def test_reference_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^training.reference .*/absent: no such model folder"):
        check_reference(ModelConfig(path=load_policy()), tmp_path / "absent")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"training": {"reference": "org/model"}}, r"training.reference \"org/model\" would have no effect"),
        (
            {"training": {"reference": "org/model", "beta": 0.1}, "lora": {"rank": 4}},
            r"training.reference .* cannot be used with lora.rank",
        ),
        ({"training": {"beta": -0.1}}, r"training.beta must be >= 0, got -0.1"),
    ],
)
def test_reference_without_use_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_mapping({"model": {"path": "."}, "retrieval": {"corpus": "c.jsonl"}} | sections)
