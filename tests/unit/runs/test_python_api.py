"""The verbs from Python, reached from the package's root."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import calibadv
from calibadv.rollout import ScriptedPolicy
from calibadv.runs.step_lines import StepLines


def test_tab_shows_the_verbs_and_every_name_can_be_had() -> None:
    assert {"train", "evaluate", "ask", "RunConfig", "load_config"} <= set(dir(calibadv))
    for name in calibadv.__all__:
        assert getattr(calibadv, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        calibadv.trian  # noqa: B018


def test_ask_without_settings_asks_the_lab_and_tells_every_event() -> None:
    seen: list[Any] = []
    finished = calibadv.ask("what is the mayor of this town?", on_event=seen.append)
    assert seen[-1] is finished
    assert finished.trajectory.turns


def test_evaluate_takes_a_policy_and_a_reward(tmp_path: Path, lab_run: Callable[..., dict[str, Any]]) -> None:
    sections = lab_run(tmp_path, evaluation={"limit": 3})
    sections["data"] |= {"test": [str(tmp_path / "questions.test.jsonl")]}

    def engine(config: Any, *, tokenizer: Any, model: object) -> ScriptedPolicy:
        assert model is None
        return ScriptedPolicy(lambda episode, turn: "so </think> <answer> 1950 </answer>", tokenizer=tokenizer)

    result = calibadv.evaluate(calibadv.RunConfig.from_mapping(sections), policy=engine, reward=lambda trajectory: 7.0)
    assert len(result.trajectories) == 3
    assert [grade.values["reward"] for grade in result.grades] == [7.0] * 3


def test_a_folder_of_a_run_is_a_config_too(tmp_path: Path, lab_run: Callable[..., dict[str, Any]]) -> None:
    config = calibadv.RunConfig.from_mapping(lab_run(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert calibadv.load_config(tmp_path / "run", overrides=["training.steps=4"]).training.steps == 4


def test_progress_is_a_short_line_for_every_batch() -> None:
    stream = io.StringIO()
    with StepLines(4, steps_per_batch=2, stream=stream) as show:
        show({"step": 2, "reward": 0.5, "f1": 0.25, "seconds_step": 3.0})
        show({"step": 4, "questions": 10, "f1": 0.5, "em": 0.25})
    first, second = stream.getvalue().splitlines()
    assert first == "step 2/4  reward 0.500  F1 0.250  0:03 left"
    assert second == "step 4/4  evaluation: F1 0.500, EM 0.250"


def test_a_warm_up_longer_than_the_run_is_shortened_and_that_is_said(
    tmp_path: Path, lab_run: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    from calibadv.runs.trainer_args import trainer_config

    sections = lab_run(tmp_path, training={"steps": 2, "warmup_steps": 4, "mini_batches": 2, "questions_per_batch": 4})
    with caplog.at_level(logging.INFO, logger="calibadv"):
        arguments = trainer_config(calibadv.RunConfig.from_mapping(sections), tmp_path / "run")
    assert arguments.warmup_steps == 2
    assert "training.warmup_steps (4) is longer than the run: shortened to its 2 steps" in caplog.text
