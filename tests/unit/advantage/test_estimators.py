"""Estimators by name, by import path and as objects: what they see, and what they may return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.advantage import ESTIMATORS, CalibrationConfig, CreditBatch, calibrate, open_estimator
from calibadv.errors import ConfigError

REWARDS = [1.0, 0.0, 0.0]
BATCH: dict[str, Any] = {
    "group_ids": ["q", "q", "q"],
    "correctness_NK": [[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]],
    "num_tokens_NK": [[10, 4], [10, 4], [10, 0]],
    "document_ids_NK": [[["d1", "d2"], []], [["d2", "d9"], []], [["d7"]]],
}
PLAIN = CalibrationConfig.plain()


def test_an_estimator_sees_the_whole_batch_by_groups() -> None:
    seen: list[CreditBatch] = []

    def look(batch: CreditBatch) -> np.ndarray[Any, Any]:
        seen.append(batch)
        return np.zeros(batch.num_tokens_NK.shape)

    calibrate(REWARDS, **BATCH, config=PLAIN, estimator=look, included_N=np.array([True, True, False]))
    (batch,) = seen
    assert [group.tolist() for group in batch.groups()] == [[0, 1]]
    assert batch.document_ids_NK[1] == (("d2", "d9"), ())
    assert batch.answer_NK.tolist() == [[False, True], [False, True], [False, False]]
    assert batch.correctness_NK[:2].tolist() == [[1.0, 0.0], [0.5, 0.0]]


def test_each_turn_may_have_its_own_advantage_and_calibration_follows() -> None:
    def per_turn(batch: CreditBatch) -> list[list[float]]:
        return [[1.0, 2.0], [-1.0, -2.0], [-1.0, 0.0]]

    plain, _ = calibrate(REWARDS, **BATCH, config=PLAIN, estimator=per_turn)
    assert plain.tolist() == [[1.0, 2.0], [-1.0, -2.0], [-1.0, 0.0]]
    calibrated, stats = calibrate(REWARDS, **BATCH, estimator=per_turn)
    assert calibrated[1].tolist() == [-0.5, -2.0]
    assert stats.uncalibrated_NK.tolist() == plain.tolist()


def test_a_built_in_name_and_its_function_are_the_same() -> None:
    for name, function in ESTIMATORS.items():
        by_name, _ = calibrate(REWARDS, **BATCH, config=CalibrationConfig.plain(estimator=name))
        by_function, _ = calibrate(REWARDS, **BATCH, config=PLAIN, estimator=function)
        np.testing.assert_array_equal(by_name, by_function)


def test_an_import_path_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halves_of_mine.py").write_text(
        "import numpy as np\ndef halves(batch):\n    return batch.per_turn(batch.rewards_N / 2)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    advantages, _ = calibrate(REWARDS, **BATCH, config=CalibrationConfig.plain(estimator="halves_of_mine:halves"))
    assert advantages.tolist() == [[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0, 3.0], r"calibration.estimator .* returned shape \[3\] for 3 trajectories of up to 2 turns"),
        ([[np.nan, 0.0], [0.0, 0.0], [0.0, 0.0]], r"calibration.estimator .* nan for turn 0 of trajectory 0"),
        ("nothing", r"calibration.estimator .* returned str, which is no array of numbers"),
    ],
)
def test_a_wrong_return_value_is_one_line_that_names_the_setting(returned: object, message: str) -> None:
    def wrong(batch: CreditBatch) -> Any:
        return returned

    with pytest.raises(ConfigError, match=message) as caught:
        calibrate(REWARDS, **BATCH, config=PLAIN, estimator=wrong)
    assert "\n" not in str(caught.value)


def test_an_error_inside_an_estimator_names_the_setting_and_the_line() -> None:
    def broken(batch: CreditBatch) -> Any:
        return batch.rewards_N[99]

    with pytest.raises(
        ConfigError, match=r"calibration.estimator .*broken.* raised IndexError: .* \(test_estimators.py:\d+"
    ):
        calibrate(REWARDS, **BATCH, config=PLAIN, estimator=broken)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:f", r"calibration.estimator 'no_such_module:f': cannot import no_such_module"),
        ("math:no_such_name", r"calibration.estimator 'math:no_such_name': the module math has no no_such_name"),
        ("math:pi", r"calibration.estimator must be callable as estimator\(batch\)"),
        ("math:", r'calibration.estimator must be like "package.module:name"'),
        ("glob:escape", None),
        ("json:JSONDecodeError", r"calibration.estimator must be callable as estimator\(batch\).*missing"),
    ],
)
def test_a_wrong_path_or_signature_names_the_setting(path: str, message: str | None) -> None:
    if message is None:
        assert callable(open_estimator(path))
        return
    with pytest.raises(ConfigError, match=message):
        open_estimator(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"calibration.estimator must be one of grpo, dr_grpo, rloo, .*got 'gigpo'"):
        CalibrationConfig(estimator="gigpo")
