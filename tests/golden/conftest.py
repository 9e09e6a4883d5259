"""Where the golden files are, and what happens when some of them, or all, are missing.

The folder is CALIBADV_GOLDEN, or ``shared/golden`` beside the repository. A single missing file skips its tests, so a
folder without the large real-world files passes. A folder without any golden file is a mistake: the tests fail if the
folder was named or the golden tests were asked for, and are skipped in an ordinary run on a machine that has no folder.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from calibadv.advantage import CalibrationConfig
from calibadv.advantage.calibrate import Rebalance, SoftPenalty

DEFAULT_FOLDER = Path(__file__).parents[3] / "shared" / "golden"
FILES = (
    "actions.jsonl",
    "advantage_vectors.json.gz",
    "correctness_vectors.json.gz",
    "format.jsonl",
    "losses.json.gz",
    "metrics.jsonl",
    "real_groups.jsonl.gz",
    "real_prompts.json",
    "real_traces.jsonl.gz",
    "real_traces_text.jsonl.gz",
    "rollout_loop.json.gz",
)


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of golden files; it holds at least one of them."""
    named = os.environ.get("CALIBADV_GOLDEN")
    folder = Path(named) if named else DEFAULT_FOLDER
    if not any((folder / name).is_file() for name in FILES):
        asked_for = "golden" in request.config.getoption("-m").replace("not golden", "")
        if named or asked_for:
            pytest.fail(f"no golden file in {folder}: set CALIBADV_GOLDEN to the folder that holds them")
        pytest.skip(f"no golden files in {folder}")
    return folder


@pytest.fixture(scope="session")
def golden(golden_dir: Path) -> Callable[[str], Any]:
    """``golden("metrics.jsonl")`` is that file, parsed: a list of records for JSON lines, else what the JSON holds."""
    parsed: dict[str, Any] = {}

    def load(name: str) -> Any:
        assert name in FILES, f"{name} is not a golden file"
        path = golden_dir / name
        if not path.is_file():
            pytest.skip(f"{name} is not in the golden folder")
        if name not in parsed:
            content = path.read_bytes()
            text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
            lines = ".jsonl" in name
            parsed[name] = [json.loads(x) for x in text.split("\n") if x] if lines else json.loads(text)
        return parsed[name]

    return load


@pytest.fixture(scope="session")
def same_number() -> Callable[[float, float], bool]:
    """The tolerance of the golden files: ``|got - want| <= 1e-5 * max(1, |want|)``."""
    return lambda got, want: abs(got - want) <= 1e-5 * max(1.0, abs(want))


@pytest.fixture(scope="session")
def settings_of() -> Callable[[str], CalibrationConfig]:
    """Our settings for a variant of the reference by its name there, whose target ratio R is 1 / lambda."""
    return config_of


def config_of(variant: str) -> CalibrationConfig:
    kind, _, ratio = variant.partition("@")
    soft: dict[str, SoftPenalty] = {"soft": "shrink", "soft_upper": "interpolate", "calib_upper_pos": "interpolate"}
    sides: dict[str, Rebalance] = {"pos": "positive", "neg": "negative"}
    return CalibrationConfig(
        soft_penalty=soft.get(kind, "shrink" if kind.startswith("calib") else "none"),
        rebalance=sides.get(kind.rpartition("_")[2], "none"),
        rebalance_coef=float(1 / Fraction(*map(Fraction, ratio.split("/")))) if ratio else 1.0,
    )
