"""SIGINT and SIGTERM: one asks, two insist; a batch is left or finished, never halved."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from calibadv.config import RunConfig
from calibadv.data.run_files import checkpoint_step, checkpoints
from calibadv.retrieval import Retriever
from calibadv.retrieval.open import open_retriever
from calibadv.runs.train import train
from calibadv.training import read_metrics
from calibadv.training.signals import StopRequested, StopSignals


def press(signum: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), signum)


@contextmanager
def started() -> Iterator[StopSignals]:
    """The first batch has begun."""
    with StopSignals() as stop:
        stop.started = True
        yield stop


def test_a_signal_inside_raises_at_once_and_outside_it_is_remembered() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with started() as stop:
        press(signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
        with pytest.raises(StopRequested, match="SIGTERM"), stop.interruptible():
            raise AssertionError("a request from before stops at the entrance")
        with pytest.raises(StopRequested):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) == before
    with started() as stop, pytest.raises(StopRequested) as caught, stop.interruptible():
        press()
    assert caught.value.signum == signal.SIGINT


def test_the_second_signal_stops_at_once_wherever_it_comes() -> None:
    with started():
        press()
        with pytest.raises(KeyboardInterrupt) as caught:
            press()
    assert not isinstance(caught.value, StopRequested)


def test_with_several_processes_a_rollout_is_finished() -> None:
    with started() as stop:
        stop.one_process = False
        with stop.interruptible():
            press()
        assert stop.requested == signal.SIGINT


@pytest.mark.parametrize("one_process", [True, False])
def test_before_the_first_batch_a_signal_stops_at_once(one_process: bool) -> None:
    with StopSignals() as stop:
        stop.one_process = one_process
        with pytest.raises(StopRequested, match="SIGTERM"):
            press(signal.SIGTERM)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> Any:
    folder = tmp_path_factory.mktemp("world")
    sections = lab_run(
        folder,
        data={"test": [str(folder / "questions.test.jsonl")]},
        training={
            "steps": 6, "questions_per_batch": 2, "num_rollouts": 4, "mini_batches": 2, "micro_batch_tokens": 1024,
            "learning_rate": 4e-4, "lr_schedule": "constant", "save_every": 6, "eval_every": 4, "keep_checkpoints": 1,
        },
        evaluation={"limit": 2},
    )  # fmt: skip
    return RunConfig.from_mapping(sections)


def placed(config: Any, folder: Path) -> Any:
    return replace(config, training=replace(config.training, output=folder))


@pytest.fixture(scope="module")
def undisturbed(config: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(placed(config, tmp_path_factory.mktemp("undisturbed") / "run"))


def assert_same(ours: Path, theirs: Path) -> None:
    for name in ("metrics.jsonl", "eval.jsonl"):
        lines, wanted = (
            [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in read_metrics(run / name)]
            for run in (ours, theirs)
        )
        assert lines == wanted
    weights, wanted_weights = (load_file(run / "model" / "model.safetensors") for run in (ours, theirs))
    assert all(torch.equal(weights[name], value) for name, value in wanted_weights.items())


class Pressing:
    """A retriever during whose n-th call somebody presses Ctrl-C."""

    def __init__(self, inner: Retriever, *, call: int, signum: int = signal.SIGTERM) -> None:
        self.inner, self.call, self.signum, self.calls = inner, call, signum, 0

    def search(self, queries: Sequence[str], k: int) -> Any:
        self.calls += 1
        if self.calls == self.call:
            press(self.signum)
        return self.inner.search(queries, k)


def test_a_run_of_a_billion_steps_begins_at_once_and_stops_at_once_while_its_model_is_loaded(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class First:
        """Presses during the first search."""

        def __init__(self) -> None:
            self.asked = False

        def search(self, queries: Sequence[str], k: int) -> Any:
            self.asked = True
            press(signal.SIGTERM)
            raise AssertionError("the signal comes first")

    def pressing(record: logging.LogRecord) -> bool:
        press(signal.SIGTERM)
        return True

    forever = replace(config.training, steps=2 * 10**9, save_every=2, eval_every=0)
    endless = placed(replace(config, training=forever), tmp_path / "run")
    retriever = First()
    with pytest.raises(StopRequested):
        train(endless, retriever=retriever)
    assert retriever.asked

    caplog.set_level(logging.INFO, logger="calibadv")
    loading = logging.getLogger("calibadv.models.load")
    loading.addFilter(pressing)  # it notes that the lab's tokenizer has no chat template
    try:
        with pytest.raises(StopRequested):
            train(placed(endless, tmp_path / "other"))
    finally:
        loading.removeFilter(pressing)
    assert "SIGTERM: stopping before the first batch" in caplog.text
    assert not (tmp_path / "other").exists()


def test_a_rollout_is_left_and_the_batch_before_it_is_saved(
    config: RunConfig, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = open_retriever(config.retrieval, top_k=2)
    evaluation = Pressing(inner, call=-1)
    train(placed(replace(config, training=replace(config.training, steps=2)), tmp_path / "e"), retriever=evaluation)
    in_second_batch = Pressing(inner, call=evaluation.calls + 1)
    with pytest.raises(StopRequested):
        train(placed(config, tmp_path / "run"), retriever=in_second_batch)
    assert "leaving this batch" in caplog.text
    assert [checkpoint_step(path) for path in checkpoints(tmp_path / "run")] == [2]
    assert f"--resume continues from {tmp_path / 'run' / 'checkpoint-2'} (step 2)" in caplog.text
    assert not (tmp_path / "run" / "model").exists()
    assert_same(train(placed(config, tmp_path / "run"), resume=True), undisturbed)


@pytest.mark.slow
def test_an_update_is_finished_and_an_evaluation_made_up_for(
    config: RunConfig, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def in_evaluation(line: dict[str, Any]) -> None:
        if "questions" in line and line["step"] == 0:
            press()  # after the evaluation and before the first batch: outside of everything

    with pytest.raises(StopRequested):
        train(placed(config, tmp_path / "early"), listeners=[in_evaluation])
    assert "no checkpoint yet, so --resume starts from the beginning" in caplog.text
    assert_same(train(placed(config, tmp_path / "early"), resume=True), undisturbed)

    class Breaking:
        """Presses during the search of the evaluation after step 4."""

        def __init__(self, inner: Retriever, run: Path) -> None:
            self.inner, self.run, self.pressed = inner, run, False

        def search(self, queries: Sequence[str], k: int) -> Any:
            played = (self.run / "trajectories" / "step-000004.jsonl.gz").exists()
            if played and not self.pressed:  # what follows the batch of step 4 is its evaluation
                self.pressed = True
                press()
            return self.inner.search(queries, k)

    run = tmp_path / "run"
    with pytest.raises(StopRequested):
        train(placed(config, run), retriever=Breaking(open_retriever(config.retrieval, top_k=2), run))
    assert [line["step"] for line in read_metrics(run / "eval.jsonl")] == [0]
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [2, 4]
    assert_same(train(placed(config, run), resume=True), undisturbed)


def test_best_and_newest_are_kept(undisturbed: Path) -> None:
    assert [checkpoint_step(path) for path in checkpoints(undisturbed)] == [6]
    lines = read_metrics(undisturbed / "eval.jsonl")
    assert [line["step"] for line in lines] == [0, 4, 6]
    best = max(lines[1:], key=lambda line: line["f1"])
    if best["f1"] > lines[0]["f1"]:
        record = json.loads((undisturbed / "best" / "best.json").read_text())
        assert record == {"step": best["step"], "metric": "f1", "value": best["f1"]}
        assert (undisturbed / "best" / "model.safetensors").exists()
    else:
        assert not (undisturbed / "best").exists(), "nothing was better than the base model"
