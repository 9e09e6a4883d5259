"""A lab that is interrupted and continued gives the results of one that was never disturbed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calibadv.data.run_files import METRICS, checkpoints, read_metrics
from calibadv.errors import ConfigError
from calibadv.io.files import read_json
from calibadv.lab.compare import run_lab
from calibadv.lab.config import LabConfig
from calibadv.lab.folder import locked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SETTINGS = "steps=4, seeds=1, world_size=60, test_questions=8, workers=1"


def start(out: Path, *, resume: bool = False) -> subprocess.Popen[str]:
    code = (
        "import pathlib; from calibadv.lab.compare import run_lab; from calibadv.lab.config import LabConfig; "
        f"run_lab(LabConfig(out=pathlib.Path({str(out)!r}), {SETTINGS}), resume={resume})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def wait_for_batch(process: subprocess.Popen[str], run: Path) -> None:
    while not read_metrics(run / METRICS):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def wait_for_lock(folder: Path) -> None:
    while True:
        try:
            with locked(folder):
                return
        except ConfigError:
            time.sleep(0.1)


def figures(out: Path) -> dict[str, Any]:
    results = read_json(out / "results.json")
    arms = [{name: value for name, value in arm.items() if name != "seconds"} for arm in results["arms"]]
    return {"arms": arms, "verdict": results["verdict"]}


def test_a_lab_that_was_stopped_and_killed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    first = start(disturbed)
    wait_for_batch(first, disturbed / "grpo-seed0")
    first.send_signal(signal.SIGTERM)
    errors = first.communicate()[1]
    assert f"calibadv lab --resume --out {disturbed} continues it" in errors
    assert checkpoints(disturbed / "grpo-seed0"), "the run that was playing has saved where it was"
    assert not (disturbed / "calibadv-seed0").exists()
    assert [arm["status"] for arm in figures(disturbed)["arms"]] == ["unfinished", "unfinished"]

    second = start(disturbed, resume=True)
    wait_for_batch(second, disturbed / "calibadv-seed0")
    second.kill()
    second.communicate()
    wait_for_lock(disturbed)  # the killed lab's run goes on to its end; nobody else may write into it until then

    for out, resume in ((disturbed, True), (undisturbed, False)):
        run_lab(LabConfig(out=out, steps=4, seeds=1, world_size=60, test_questions=8, workers=1), resume=resume)
    assert [arm["status"] for arm in figures(disturbed)["arms"]] == ["finished", "finished"]
    assert figures(disturbed) == figures(undisturbed)
    assert (disturbed / "report.html").is_file()
