"""The trainer against TRL's own path, with scripted rollouts.

The methods of TRL that our overrides take the place of begin with an underscore; here they are called as TRL does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from calibadv.data.run_files import read_metrics
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError
from calibadv.rollout import HFTokenizer, ScriptedPolicy
from calibadv.runs.trainer_args import loss_options
from calibadv.training.config import TrainingConfig
from calibadv.training.grpo_config import CalibAdvConfig
from calibadv.training.no_signal import NoSignalError
from calibadv.training.overrides.micro_batches import Pass, Prepared
from calibadv.training.trainer import CalibAdvTrainer

GOOD, MISLED, LOST, INVALID = range(4)
"""The rollouts of a group, as the scripted policy plays them."""


def saying(text: str) -> Callable[[Any, PreTrainedTokenizerFast], ScriptedPolicy]:
    """Makes policies that always write the same."""
    return lambda _model, tokenizer: ScriptedPolicy(lambda _e, _t: text, tokenizer=HFTokenizer(tokenizer))


def weights(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model_of(trainer).parameters()])


def model_of(trainer: GRPOTrainer) -> Any:
    return trainer.model


def rows_of(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    """A batch as TRL draws it: two questions, four times each."""
    dataset: Any = trainer.train_dataset
    return [dict(dataset[i]) for i in range(2) for _ in range(4)]


class TrlLogprobs(CalibAdvTrainer):
    """Log-probabilities by TRL's own path."""

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return GRPOTrainer._get_per_token_logps_and_entropies(self, *args, **kwargs)


class TrlBatching(CalibAdvTrainer):
    """Every mini-batch in one pass, padded to the longest rollout of the batch, as TRL itself prepares it."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if not model_of(self).training or isinstance(generation_batch, Prepared):
            return super()._prepare_inputs(generation_batch)
        if self._step % self.args.updates_per_batch == 0:
            batch = self._generate_and_score_completions(generation_batch)
            batch["num_items_in_batch"] = batch["num_items_in_batch"] / self.args.mini_batches
            self._buffered_inputs = split_tensor_dict(batch, self.args.mini_batches)
        piece = self._buffered_inputs[self._step % self.args.mini_batches]
        rows = list(range(len(piece["completion_ids"])))
        return [(Pass(rows=rows, most_rows=len(rows), share=1), Prepared(piece))]


@pytest.mark.parametrize("loss_type", get_args(get_type_hints(TrainingConfig)["loss_type"]))
@pytest.mark.parametrize(
    ("theirs", "old_logprobs"), [(TrlLogprobs, "recomputed"), (TrlBatching, "recomputed"), (TrlBatching, "sampled")]
)
def test_overrides_train_the_same_weights_as_trl(
    make_trainer: Callable[..., CalibAdvTrainer], loss_type: Any, theirs: type[CalibAdvTrainer], old_logprobs: str
) -> None:
    options = {**loss_options(TrainingConfig(loss_type=loss_type)), "old_logprobs": old_logprobs}
    ours, reference = make_trainer(**options), make_trainer(theirs, **options)
    before = weights(ours)
    assert torch.equal(before, weights(reference))
    ours.train()
    reference.train()
    assert (weights(ours) - before).abs().max() > 1e-3
    torch.testing.assert_close(weights(ours), weights(reference), atol=2e-5, rtol=1e-3)


def mixture_of_experts(kind: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    torch.manual_seed(0)
    experts = {"num_experts": 4, "moe_intermediate_size": 16} if kind == "qwen3_moe" else {"num_local_experts": 4}
    config: Any = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, num_experts_per_tok=2, max_position_embeddings=1024,
        initializer_range=0.2, **experts,
    )  # fmt: skip
    auto: Any = AutoModelForCausalLM  # untyped there
    return auto.from_config(config)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_mixture_of_experts_trains_as_with_trl_its_auxiliary_loss_included(
    make_trainer: Callable[..., CalibAdvTrainer], char_tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    def trained(cls: type[CalibAdvTrainer], coef: float) -> CalibAdvTrainer:
        model = mixture_of_experts(kind, char_tokenizer)
        trainer = make_trainer(cls, model=model, router_aux_loss_coef=coef, max_steps=2)
        trainer.train()
        return trainer

    ours, reference, without = (
        trained(*arm) for arm in ((CalibAdvTrainer, 0.5), (TrlLogprobs, 0.5), (CalibAdvTrainer, 0.0))
    )
    losses, wanted = ([line["loss"] for line in t.state.log_history if "loss" in line] for t in (ours, reference))
    assert losses == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(weights(ours), weights(reference), atol=2e-5, rtol=1e-3)
    assert (weights(ours) - weights(without)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_mixture_of_experts_plays_its_own_rollouts_with_the_logprobs_of_a_full_forward(
    make_trainer: Callable[..., CalibAdvTrainer], char_tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    rollout = {"prompt": "question", "max_turn_tokens": 12}
    trainer = make_trainer(policy=None, model=mixture_of_experts(kind, char_tokenizer), rollout=rollout)
    model_of(trainer).train()
    batch = trainer._generate_and_score_completions(rows_of(trainer))
    assert_old_logprobs_are_those_of_a_full_forward(trainer, batch, temperature=1.0)


def test_gpt2_with_its_default_dropout_trains_from_its_own_rollouts(
    make_trainer: Callable[..., CalibAdvTrainer], char_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(char_tokenizer), "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=1))
    rollout = {"prompt": "question", "max_turn_tokens": 12}
    trainer = make_trainer(policy=None, model=model, rollout=rollout, max_steps=4)
    trainer.add_callback(InTraining())
    trainer.train()
    assert len(read_metrics(trainer.run_dir / "metrics.jsonl")) == 2


class InTraining(TrainerCallback):
    """Puts the model into training mode before its first rollouts, as a resumed run does."""

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        kwargs["model"].train()


def test_model_that_comes_in_evaluation_mode_trains_the_same(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    one, other = make_trainer(), make_trainer()
    model_of(other).eval()
    one.train()
    other.train()
    assert torch.equal(weights(one), weights(other))
    assert len(list((other.run_dir / "trajectories").iterdir())) == 2


def assert_old_logprobs_are_those_of_a_full_forward(
    trainer: CalibAdvTrainer, batch: dict[str, Any], *, temperature: float
) -> None:
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    with torch.no_grad():
        logits = trainer.policy_model(input_ids=ids, attention_mask=attention).logits[:, :-1] / temperature
    logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)[:, -mask.shape[1] :]
    assert mask.sum() > 50
    torch.testing.assert_close(batch["old_per_token_logps"][mask], logp[mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.7), (1.4, 1.0), (0.6, 0.9)])
def test_old_logprobs_are_those_of_a_full_forward_at_the_temperature_of_the_loss(
    make_trainer: Callable[..., CalibAdvTrainer], temperature: float, top_p: float
) -> None:
    rollout = {"prompt": "question", "max_turn_tokens": 12}
    trainer = make_trainer(policy=None, temperature=temperature, top_p=top_p, rollout=rollout)
    model_of(trainer).train()
    batch = trainer._generate_and_score_completions(rows_of(trainer))
    assert_old_logprobs_are_those_of_a_full_forward(trainer, batch, temperature=temperature)
    assert trainer.uses_sampled_logprobs == (temperature == 1)


def test_temperatures_of_rollouts_and_loss_that_differ_are_refused(settings: dict[str, Any]) -> None:
    assert CalibAdvConfig(**(settings | {"temperature": 0.7})).rollout_config.temperature == 0.7
    with pytest.raises(ConfigError, match=r"rollout.temperature is 0.5, but the loss .* temperature 1"):
        CalibAdvConfig(**(settings | {"rollout": {"temperature": 0.5}}))


def test_sampled_logprobs_at_another_temperature_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"'sampled' at temperature 0.7"):
        CalibAdvConfig(**(settings | {"temperature": 0.7, "old_logprobs": "sampled"}))


def test_without_calibration_the_advantages_are_those_of_trl(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer(calibration={"soft_penalty": "none", "rebalance": "none"})
    theirs = GRPOTrainer._generate_and_score_completions(trainer, rows_of(trainer))
    model_of(trainer).train()
    ours = trainer._generate_and_score_completions(rows_of(trainer))
    mask = (ours["completion_mask"] * ours["tool_mask"]).bool()
    wanted = theirs["advantages"][:, None].expand(mask.shape)
    # TRL adds 1e-4 to the deviation, the method 1e-6.
    torch.testing.assert_close(ours["advantages"][mask], wanted[mask], atol=1e-3, rtol=1e-3)
    assert (ours["advantages"][~mask] == 0).all()


def test_calibrated_advantages_forgive_the_good_search_and_balance_the_answers(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer()
    trainer.train()
    records = list(read_trajectories(trainer.run_dir / "trajectories" / "step-000002.jsonl.gz"))
    group = records[:4]
    credits = [r.credit for r in group if r.credit is not None]
    assert [c.reward for c in credits] == [1.0, 0.0, 0.0, 0.0]
    correctness = credits[MISLED].correctness
    assert correctness is not None
    assert correctness[0] == 1.0
    assert credits[MISLED].calibrated[0] == 0.0
    assert credits[MISLED].advantages[0] == pytest.approx(-0.5, abs=1e-3)
    assert credits[LOST].calibrated[0] == pytest.approx(-0.5, abs=1e-3)
    mass = np.zeros(2)
    for record, credit in zip(group, credits, strict=True):
        tokens = len(record.trajectory.turns[-1].token_ids)
        mass[int(credit.calibrated[-1] < 0)] += abs(credit.calibrated[-1]) * tokens
    assert mass[0] == pytest.approx(mass[1], rel=1e-6)


def test_metrics_hold_one_complete_line_per_batch(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer()
    trainer.train()
    lines = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    line = lines[0]
    assert line["f1"] == line["reward"] == 0.25
    assert line["format_valid"] == 0.75
    assert line["mispenalised_turns"] == 2
    assert line["mispenalised_share"] == pytest.approx(1 / 3)
    assert line["positive_mass_after"] == pytest.approx(line["negative_mass_after"])
    assert line["silver_counts"] == [2, 2]
    assert line["groups_without_signal"] == 0
    assert line["skipped_updates"] == 0
    for name in ("generate", "search", "scheduler", "update", "other", "step"):
        assert line[f"seconds_{name}"] >= 0
    for name in ("loss", "grad_norm", "lr", "clip_fraction", "entropy", "perplexity_answer"):
        assert line[name] is not None


def poison(trainer: GRPOTrainer, *, updates: int) -> None:
    """Make the gradients of the first ``updates`` updates NaN (each is made of two micro-batches)."""
    passes = iter(range(2 * updates))
    weight = model_of(trainer).model.layers[0].mlp.gate_proj.weight
    weight.register_hook(lambda grad: grad * float("nan") if next(passes, None) is not None else grad)


def test_non_finite_gradient_skips_the_update_and_is_counted(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer()
    poison(trainer, updates=2)
    trainer.train()
    assert [line["skipped_updates"] for line in read_metrics(trainer.run_dir / "metrics.jsonl")] == [2, 0]


def test_skipped_updates_leave_the_weights_alone_and_a_run_of_nothing_else_is_no_success(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer()
    poison(trainer, updates=4)
    before = weights(trainer)
    with pytest.raises(NoSignalError, match=r"the last 4 updates were all skipped .* lower training.learning_rate"):
        trainer.train()
    assert torch.equal(weights(trainer), before)
    assert len(read_metrics(trainer.run_dir / "metrics.jsonl")) == 2


def test_batch_after_batch_of_skipped_updates_stops_before_the_next_is_played(
    make_trainer: Callable[..., CalibAdvTrainer],
) -> None:
    trainer = make_trainer(max_steps=8, max_batches_without_signal=2)
    poison(trainer, updates=8)
    with pytest.raises(NoSignalError, match="stopped: the last 4 updates were all skipped"):
        trainer.train()
    assert trainer.state.global_step == 4
    assert len(list((trainer.run_dir / "trajectories").iterdir())) == 2


def test_policy_that_never_writes_a_tag_is_told_so_and_stops(
    make_trainer: Callable[..., CalibAdvTrainer], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(max_batches_without_signal=2, policy=saying("no idea"))
    with pytest.raises(NoSignalError, match="does not use the tags"):
        trainer.train()
    assert "No signal in this batch" in caplog.text


def test_batch_in_which_every_rollout_failed_is_told_so_and_stops(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer(
        max_batches_without_signal=1,
        rollout={"prompt": "question", "top_k": 2, "deadline_s": 1e-6},
        policy=saying("hm</think><search>book 1</search>"),
    )
    with pytest.raises(NoSignalError, match=r"every rollout failed.* raise rollout\.deadline_s"):
        trainer.train()


def test_calibration_without_trajectories_refuses_to_train(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    trainer = make_trainer()
    plain: Any = trainer.rollout_func

    def forgetful(prompts: Any, owner: Any) -> dict[str, Any]:
        fields: dict[str, Any] = plain(prompts, owner)
        del fields["trajectory"]
        return fields

    trainer.rollout_func = forgetful
    trainer.reward_funcs = [lambda completions, **_: [float(n % 2) for n in range(len(completions))]]
    with pytest.raises(ConfigError, match="no query correctness arrive"):
        trainer.train()


def test_steps_that_do_not_fill_a_batch_are_refused(make_trainer: Callable[..., CalibAdvTrainer]) -> None:
    with pytest.raises(ConfigError, match="multiple of the 2 optimizer steps"):
        make_trainer(max_steps=3)


def test_calibration_with_searches_forbidden_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no query correctness can arrive"):
        CalibAdvConfig(**(settings | {"rollout": {"max_searches": 0}}))


def test_configuration_can_be_written_as_json(settings: dict[str, Any]) -> None:
    config: Any = CalibAdvConfig(**settings)
    assert json.loads(config.to_json_string())["rollout"]["top_k"] == 2
