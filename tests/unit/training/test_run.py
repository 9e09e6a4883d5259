"""Whole runs with the lab's base policy on a tiny world: what stops them, and that they then go on undisturbed."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.config import RunConfig
from calibadv.data.run_files import checkpoint_step, checkpoints
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError, PolicyError, RetrieverError, RetrieverUnavailable
from calibadv.lab import load_policy
from calibadv.models.config import ModelConfig
from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.open import open_retriever
from calibadv.rollout import Completion, Policy, RequestQueue, Tokenizer
from calibadv.rollout.policies.transformers import TransformersPolicy
from calibadv.runs.evaluate import questions_of
from calibadv.runs.train import is_relevant, periodic_questions, train
from calibadv.training import read_metrics
from calibadv.training.checkpoint_files import problem_of
from calibadv.training.no_signal import NoSignalError

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    return lab_run(
        folder,
        data={"test": [str(folder / "questions.test.jsonl")]},
        rollout={"search_retries": 1},
        training={
            "steps": 6,
            "questions_per_batch": 2,
            "num_rollouts": 4,
            "mini_batches": 2,
            "micro_batch_tokens": 1024,
            "learning_rate": 4e-4,
            "lr_schedule": "constant",
            "save_every": 2,
        },
        evaluation={"limit": 2},
    )


@pytest.fixture(scope="module")
def make_config(sections: dict[str, Any]) -> Configure:
    def make(output: Path, **training: Any) -> RunConfig:
        model = sections["model"] | {"dtype": training.pop("dtype", "float32")}
        rollout = sections["rollout"] | {"temperature": training.pop("temperature", 1.0)}
        changed = sections | {"model": model, "rollout": rollout}
        return RunConfig.from_mapping(changed | {"training": sections["training"] | {"output": str(output)} | training})

    return make


@pytest.fixture(scope="module")
def undisturbed(make_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(make_config(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture(scope="module")
def retriever(make_config: Configure, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return open_retriever(make_config(tmp_path_factory.mktemp("none")).retrieval, top_k=2)


class Moody:
    """A retriever that answers some calls and then is down until told otherwise."""

    def __init__(self, retriever: Retriever, *, answers: int) -> None:
        self.retriever = retriever
        self.answers = answers
        self.failed_calls = 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.answers -= 1
        if self.answers < 0:
            self.failed_calls += 1
            raise RetrieverError("nobody home")
        return self.retriever.search(queries, k)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_run(ours: Path, theirs: Path) -> None:
    lines, wanted = (
        [
            {name: value for name, value in line.items() if not name.startswith("seconds_")}
            for line in read_metrics(run / "metrics.jsonl")
        ]
        for run in (ours, theirs)
    )
    assert lines == wanted
    assert weights(ours).keys() == weights(theirs).keys()
    assert all(torch.equal(weights(ours)[name], value) for name, value in weights(theirs).items())


def test_run_leaves_nothing_but_its_records(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line["step"] for line in read_metrics(undisturbed / "metrics.jsonl")] == [2, 4, 6]
    assert sorted(path.name for path in (undisturbed / "trajectories").iterdir()) == [
        "step-000002.jsonl.gz",
        "step-000004.jsonl.gz",
        "step-000006.jsonl.gz",
    ]
    assert [checkpoint_step(path) for path in checkpoints(undisturbed)] == [6, 4, 2]
    assert capsys.readouterr().out == ""


def test_run_that_cannot_start_leaves_no_folder_to_avoid(make_config: Configure, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="questions_per_batch is 5000, but there are only"):
        train(make_config(tmp_path / "run", questions_per_batch=5000))
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run_is_refused_before_anything_is_read(make_config: Configure, undisturbed: Path) -> None:
    config = make_config(undisturbed)
    with pytest.raises(ConfigError, match="is the folder of another run; name a new folder"):
        train(replace(config, data=replace(config.data, train=(Path("absent.jsonl"),))))


def test_two_steps_and_four_resumed_ones_are_six(make_config: Configure, undisturbed: Path, tmp_path: Path) -> None:
    run = train(make_config(tmp_path / "run", steps=2, save_every=0))
    assert [checkpoint_step(path) for path in checkpoints(run)] == [2]
    train(make_config(tmp_path / "run", steps=6), resume=True)
    assert_same_run(run, undisturbed)


def test_kl_is_counted_from_the_base_model_in_a_resumed_run_too(make_config: Configure, tmp_path: Path) -> None:
    whole = train(make_config(tmp_path / "whole", beta=0.05, steps=4))
    train(make_config(tmp_path / "cut", beta=0.05, steps=2))
    assert_same_run(train(make_config(tmp_path / "cut", beta=0.05, steps=4), resume=True), whole)
    first, second = (line["kl"] for line in read_metrics(whole / "metrics.jsonl"))
    assert 0 < first < second


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_costs_the_batches_since_the_one_before_and_nothing_else(
    make_config: Configure, undisturbed: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train(make_config(run, steps=4))
    assert all(problem_of(checkpoint, verify=True) is None for checkpoint in checkpoints(run))
    content = bytearray((run / "checkpoint-4" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / "checkpoint-4" / name).write_bytes(content)
    train(make_config(run, steps=6), resume=True)
    assert f"{run / 'checkpoint-4'} is incomplete or damaged ({name} holds other bytes" in caplog.text
    assert_same_run(run, undisturbed)


def test_resuming_to_fewer_steps_than_were_made_is_refused(make_config: Configure, undisturbed: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.steps is 4, but the run in .* has already made 6"):
        train(make_config(undisturbed, steps=4), resume=True)


def test_retriever_that_stays_away_stops_the_run_and_its_return_continues_it(
    make_config: Configure, retriever: Retriever, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counter = Moody(retriever, answers=10**6)
    train(make_config(tmp_path / "counted", steps=2, save_every=0), retriever=counter)
    first_batch = 10**6 - counter.answers

    moody = Moody(retriever, answers=first_batch + 1)
    with pytest.raises(RetrieverUnavailable, match="then resume"):
        train(make_config(tmp_path / "run", save_every=0), retriever=moody)
    assert moody.failed_calls >= 2
    assert f"--resume continues from {tmp_path / 'run' / 'checkpoint-2'} (step 2)" in caplog.text
    train(make_config(tmp_path / "run"), resume=True)
    assert_same_run(tmp_path / "run", undisturbed)


def test_retriever_that_fails_once_changes_nothing(
    make_config: Configure, retriever: Retriever, undisturbed: Path, tmp_path: Path
) -> None:
    class Hiccup(Moody):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            self.failed_calls += 1
            if self.failed_calls % 3 == 0:
                raise RetrieverError("hiccup")
            return self.retriever.search(queries, k)

    assert_same_run(train(make_config(tmp_path / "run"), retriever=Hiccup(retriever, answers=0)), undisturbed)


def test_interrupted_run_says_where_it_goes_on(
    make_config: Configure, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def press_ctrl_c(line: dict[str, Any]) -> None:
        if line["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_config(tmp_path / "run"), listeners=[press_ctrl_c])
    assert f"--resume continues from {tmp_path / 'run' / 'checkpoint-2'} (step 2)" in caplog.text
    train(make_config(tmp_path / "run"), resume=True)
    assert_same_run(tmp_path / "run", undisturbed)


def test_run_stopped_before_its_first_checkpoint_starts_anew(
    make_config: Configure, retriever: Retriever, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RetrieverUnavailable):
        train(make_config(tmp_path / "run"), retriever=Moody(retriever, answers=1))
    assert "no checkpoint yet, so --resume starts from the beginning" in caplog.text
    train(make_config(tmp_path / "run"), resume=True)
    assert_same_run(tmp_path / "run", undisturbed)


def test_weights_that_broke_are_named_and_the_checkpoints_stay_good(
    make_config: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(TransformersPolicy):
        batches = 0

        def generate(self, requests: RequestQueue) -> Iterator[Completion]:
            self.batches += 1
            if self.batches == 3:  # steps 5 and 6
                with torch.no_grad():
                    next(iter(being_trained)).get_input_embeddings().weight.fill_(float("nan"))
            return super().generate(requests)

    being_trained: list[Any] = []

    def engine(config: ModelConfig, *, tokenizer: Tokenizer, model: Any) -> Policy:
        being_trained.append(model)
        return Breaking(model, tokenizer)

    with pytest.raises(PolicyError, match="not finite"):
        train(make_config(tmp_path / "run"), policy=engine)
    assert f"--resume continues from {tmp_path / 'run' / 'checkpoint-4'} (step 4)" in caplog.text
    for checkpoint in checkpoints(tmp_path / "run"):
        saved = load_file(checkpoint / "model.safetensors")
        assert all(bool(torch.isfinite(value).all()) for value in saved.values())


def test_run_that_has_nothing_to_learn_from_saves_and_stops(
    make_config: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NoSignalError, match="stopped after 2 batches in a row"):
        train(make_config(tmp_path / "run", temperature=0.01, max_batches_without_signal=2, save_every=0))
    assert "all rollouts earn the same reward" in caplog.text or "no answer scores above 0" in caplog.text
    assert f"--resume continues from {tmp_path / 'run' / 'checkpoint-2'} (step 2)" in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_half_precision_runs_the_model_but_not_the_weights(make_config: Configure, tmp_path: Path, dtype: str) -> None:
    run = train(make_config(tmp_path / "run", steps=2, questions_per_batch=8, dtype=dtype))
    assert {value.dtype for value in weights(run).values()} == {torch.float32}
    base = load_file(load_policy() / "model.safetensors")
    moved = max(float((value - base[name]).abs().max()) for name, value in weights(run).items())
    assert 0 < moved < 2e-3
    (line,) = read_metrics(run / "metrics.jsonl")
    assert line["skipped_updates"] == 0
    assert 0 < line["grad_norm"] < 10
    assert line["clip_fraction"] < 0.1


def test_evaluations_are_recorded_before_and_after_and_survive_a_resume(make_config: Configure, tmp_path: Path) -> None:
    train(make_config(tmp_path / "run", steps=2, eval_every=2))
    train(make_config(tmp_path / "run", steps=4, eval_every=2), resume=True)
    lines = read_metrics(tmp_path / "run" / "eval.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert all(line["questions"] == 2 for line in lines)


def test_evaluations_during_training_may_ask_a_sample_of_each_data_set(
    make_config: Configure, sections: dict[str, Any], tmp_path: Path
) -> None:
    rare = tmp_path / "rare.test.jsonl"
    lines = [json.dumps({"id": f"r{n}", "question": f"who is {n}?", "golden_answers": ["x"]}) for n in range(2)]
    rare.write_text("\n".join(lines), encoding="utf-8")
    config = make_config(tmp_path / "run", eval_every=2, eval_per_dataset=3)
    config = replace(
        config,
        data=replace(config.data, test=(*config.data.test, rare)),
        evaluation=replace(config.evaluation, limit=None),
    )
    asked = periodic_questions(config)
    assert Counter(question.dataset for question in asked) == {"questions": 3, "rare": 2}
    assert asked == periodic_questions(config), "the same ones every time"
    everything = questions_of(config, split="test")
    assert len(everything) > 5, "calibadv eval asks all of them"
    assert [question for question in everything if question in asked] == asked


def test_resumed_run_is_silent_about_the_tied_head(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord(
        "transformers.trainer", logging.WARNING, "", 0,
        "There were missing keys in the checkpoint model loaded: ['lm_head.weight'].", None, None,
    )  # fmt: skip
    assert not is_relevant(record)
    record.msg = "There were missing keys in the checkpoint model loaded: ['lm_head.weight', 'model.norm.weight']."
    assert is_relevant(record)


@pytest.mark.slow
def test_two_processes_give_the_advantages_and_the_mini_batches_of_one(make_config: Configure, tmp_path: Path) -> None:
    # 8 rollouts of 2 groups in 3 mini-batches, in passes of about one rollout, of which some processes have more.
    shape = {"steps": 3, "mini_batches": 3, "save_every": 0, "micro_batch_tokens": 256}
    one, config = train(make_config(tmp_path / "one", **shape)), make_config(tmp_path / "two", **shape)
    (tmp_path / "two.toml").write_text(config.to_toml(), encoding="utf-8")
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "calibadv", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(tmp_path / "two.toml")],
        capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,), (wanted,) = (read_metrics(run / "metrics.jsonl") for run in (tmp_path / "two", one))
    for name in ("loss", "grad_norm", "reward"):
        assert line[name] == pytest.approx(wanted[name], rel=1e-4)
    records = [
        {
            (record.trajectory.question.id, record.trajectory.rollout_index): record
            for path in (run / "trajectories").iterdir()
            for record in read_trajectories(path)
        }
        for run in (one, tmp_path / "two")
    ]
    assert len(records[0]) == 8
    assert {key: record.credit for key, record in records[0].items()} == {
        key: record.credit for key, record in records[1].items()
    }
    # Gradients are summed in another order, and Adam's first steps (4e-4) make tiny ones as large as any other.
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=1.2e-4, rtol=1e-4)
