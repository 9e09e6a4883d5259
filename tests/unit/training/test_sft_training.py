"""Supervised training: tokens as a rollout has them, the loss on what the model writes, checkpoints, resuming."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments

from calibadv.config import RunConfig
from calibadv.data.run_files import checkpoint_step, checkpoints
from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.lab import load_policy
from calibadv.models.load import ModelConfig, load_model
from calibadv.retrieval import ListRetriever
from calibadv.rollout import RolloutConfig, ScriptedPolicy, rollout
from calibadv.rollout.tokenizer import HFTokenizer
from calibadv.runs.sft import look_at_format, make_demonstrations, train_on_demonstrations
from calibadv.training import read_metrics
from calibadv.training.sft.demonstrate import demonstrate, play_together
from calibadv.training.sft.plans import make_plan
from calibadv.training.sft.tokenize import IGNORED, Example, collate, make_example, make_examples
from calibadv.training.sft.trainer import DemonstrationTrainer
from calibadv.training.signals import StopRequested
from calibadv.trajectory import Document, Question, Trajectory

QUESTION = Question(id="q1", text="who wrote book 1?", golden_answers=("author 1",), dataset="toy")
LIBRARY = [
    Document(id="d", title="Book 1", text="by author 1, who wrote book 1 long ago"),
    Document(id="x", title="Other", text="nothing here at all"),
]


@pytest.fixture
def demonstrated() -> Trajectory:
    plan = make_plan(QUESTION)
    assert plan is not None
    playing = demonstrate(QUESTION, plan, rng=Random(0), max_searches=2)
    (trajectory,) = play_together([playing], retriever=ListRetriever(LIBRARY), top_k=2)
    assert isinstance(trajectory, Trajectory)
    return trajectory


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("limit", [2048, 60])
def test_an_example_has_the_tokens_of_the_same_episode_in_a_rollout(
    demonstrated: Trajectory, char_tokenizer: PreTrainedTokenizerFast, prefill: bool, limit: int
) -> None:
    tokenizer = HFTokenizer(char_tokenizer)
    config = RolloutConfig(prompt="question", top_k=2, think_prefill=prefill, max_observation_tokens=limit)
    script = [turn.text if prefill else f"<think>{turn.text}" for turn in demonstrated.turns]
    (played,) = rollout(
        [QUESTION],
        num_rollouts=1,
        policy=ScriptedPolicy([script], tokenizer=tokenizer),
        retriever=ListRetriever(LIBRARY),
        tokenizer=tokenizer,
        config=config,
        seed=0,
    ).trajectories
    example = make_example(demonstrated, tokenizer=tokenizer, config=config)
    ids, mask = list(played.prompt_token_ids), [0] * len(played.prompt_token_ids)
    for turn in played.turns:
        ids += [*turn.token_ids, *turn.observation_token_ids]
        mask += [1] * len(turn.token_ids) + [0] * len(turn.observation_token_ids)
    assert list(example.token_ids) == ids
    assert list(example.mask) == mask


def test_examples_that_are_too_long_are_counted_and_none_at_all_is_an_error(
    demonstrated: Trajectory, char_tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer = HFTokenizer(char_tokenizer)
    config = RolloutConfig(prompt="question", top_k=2)
    length = len(make_example(demonstrated, tokenizer=tokenizer, config=config).token_ids)
    options: dict[str, Any] = {"tokenizer": tokenizer, "config": config}
    short = make_example(replace(demonstrated, turns=demonstrated.turns[-1:]), **options)
    both = [demonstrated, replace(demonstrated, turns=demonstrated.turns[-1:])]
    assert make_examples(both, max_tokens=length - 1, **options) == ([short], 1)
    with pytest.raises(DataError, match=r"raise sft\.max_tokens"):
        make_examples([demonstrated], max_tokens=64, **options)


def test_padding_and_what_was_not_written_has_no_label() -> None:
    batch = collate([Example(token_ids=(5, 6, 7), mask=(0, 1, 0)), Example(token_ids=(8,), mask=(1,))], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED], [8, IGNORED, IGNORED]]


EXAMPLES = [
    Example(token_ids=tuple(range(5, 5 + n)), mask=tuple(int(i > 1 and i % 3 > 0) for i in range(n)))
    for n in (9, 4, 12, 7)
]


def one_step(
    model: Any, tmp_path: Path, *, micro: int, rate: float = 0.0, examples: Sequence[Example] = EXAMPLES
) -> DemonstrationTrainer:
    """Train one optimizer step; the trainer comes back."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=micro, learning_rate=rate,
        gradient_accumulation_steps=4 // micro, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1,
        remove_unused_columns=False, disable_tqdm=True, optim="sgd", max_grad_norm=1e9, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = DemonstrationTrainer(model, args=arguments, examples=examples, tokenizer=None, pad_id=0)
    trainer.train()
    return trainer


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_loss_is_the_token_mean_over_all_that_was_written(
    make_model: Callable[[], LlamaForCausalLM], tmp_path: Path, micro: int
) -> None:
    model = make_model()
    expected = token_mean(model)
    trainer = one_step(model, tmp_path, micro=micro)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=2e-4)


def token_mean(model: Any) -> float:
    """The loss by the model's own forward over one example at a time."""
    total, count = 0.0, 0
    for example in EXAMPLES:
        ids = torch.tensor([example.token_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        logp = logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        total -= float((logp * torch.tensor(example.mask[1:])).sum())
        count += sum(example.mask[1:])
    return total / count


def test_micro_batches_make_no_difference_to_the_weights(
    make_model: Callable[[], LlamaForCausalLM], tmp_path: Path
) -> None:
    results = []
    for micro in (1, 4):
        model = make_model()
        one_step(model, tmp_path, micro=micro, rate=0.1)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert not torch.equal(results[0], torch.cat([p.detach().flatten() for p in make_model().parameters()]))


def test_a_model_with_a_bounded_head_takes_the_plain_path_to_its_own_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bounded = Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, initializer_range=0.2, final_logit_softcapping=0.5, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(bounded)
    expected = token_mean(model)
    assert one_step(model, tmp_path, micro=2).state.log_history[0]["loss"] == pytest.approx(expected, abs=2e-4)


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> Any:
    folder = tmp_path_factory.mktemp("world")
    return lab_run(folder, data={"test": [str(folder / "questions.test.jsonl")]})


@pytest.fixture
def make_config(sections: Any, tmp_path: Path) -> Any:
    """A run on stored trajectories of the lab's own policy."""
    tokenizer = load_model(ModelConfig(path=load_policy(), device="cpu"))[1]
    questions = [Question(id=f"s{n}", text=f"author book {n}", golden_answers=("Oslo",)) for n in range(12)]
    script = ["author book</think><search> author book </search>", "author Oslo</think><answer> Oslo </answer>"]
    adapter = HFTokenizer(tokenizer)
    played = rollout(
        questions, num_rollouts=1, policy=ScriptedPolicy([script] * 12, tokenizer=adapter), tokenizer=adapter,
        retriever=ListRetriever([Document(id="d", title="book", text="author Oslo")]),
        config=RolloutConfig(prompt="question", top_k=1), seed=0,
    )  # fmt: skip
    # What the tokenizer made of the words is beside the point: the stored text is what is trained.
    turns = [
        replace(turn, text=text, thinking="author")
        for turn, text in zip(played.trajectories[0].turns, script, strict=True)
    ]
    records = [Record(trajectory=replace(t, turns=tuple(turns))) for t in played.trajectories]
    write_trajectories(tmp_path / "stored.jsonl", records)

    def make(name: str = "run", **sft: Any) -> Any:
        return RunConfig.from_mapping(
            sections
            | {
                "training": {"threads": 1, "output": str(tmp_path / name)},
                "sft": {
                    "programmatic": 0, "trajectories": [str(tmp_path / "stored.jsonl")], "batch": 2, "micro_batch": 2,
                    "epochs": 1, "save_every": 2, "format_check": 2, "learning_rate": 1e-3,
                } | sft,
            }
        )  # fmt: skip

    return make


def test_a_run_writes_its_records_and_a_model_that_can_be_loaded(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_config()
    folder = train_on_demonstrations(config, retriever=ListRetriever([]))
    assert folder == tmp_path / "run-sft"
    losses = [line["loss"] for line in read_metrics(folder / "sft.jsonl")]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert [checkpoint_step(path) for path in checkpoints(folder)] == [6, 4]
    assert sorted(path.name for path in (folder / "demonstrations").iterdir()) == ["report.json", "stored.jsonl.gz"]
    retriever = ListRetriever(
        [Document(id="d", title="book", text="author Oslo"), Document(id="e", title="", text="x")]
    )
    result = look_at_format(config, folder, retriever=retriever)
    assert result is not None
    assert len(result.grades) == 2
    assert (folder / "format_check.json").exists()
    with pytest.raises(ConfigError, match=r"sft.output .* is the folder of another run"):
        train_on_demonstrations(config, retriever=ListRetriever([]))


def test_an_interrupted_run_goes_on_to_the_same_weights(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    whole = train_on_demonstrations(make_config("whole"), retriever=ListRetriever([]))

    def press(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StopRequested):
        train_on_demonstrations(make_config("cut"), retriever=ListRetriever([]), listeners=[press])
    assert not (tmp_path / "cut-sft" / "model").exists()
    assert next(checkpoint_step(p) for p in checkpoints(tmp_path / "cut-sft")) >= 3
    cut = train_on_demonstrations(make_config("cut"), resume=True, retriever=ListRetriever([]))
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (cut, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_metrics(cut / "sft.jsonl") == read_metrics(whole / "sft.jsonl")


def test_demonstrations_can_be_made_first_and_trained_on_later(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(epochs=1)
    report = make_demonstrations(config, retriever=ListRetriever([]))
    assert report["demonstrations"] == 12
    with pytest.raises(ConfigError, match="continue that run"):
        train_on_demonstrations(config, retriever=ListRetriever([]))
    folder = train_on_demonstrations(config, resume=True, retriever=None)
    assert (folder / "model" / "config.json").exists()
    with pytest.raises(ConfigError, match=r"sft\.batch was 2, is 4"):
        train_on_demonstrations(make_config(batch=4), resume=True)


def test_too_few_demonstrations_for_a_batch_are_named(make_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"sft\.batch is 64, but there are only 12 demonstrations"):
        train_on_demonstrations(make_config(batch=64), retriever=ListRetriever([]))
