"""The runs of a lab as processes, with small programs in place of trainings."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from calibadv.errors import CalibAdvError
from calibadv.lab.arms import Arm, parse_arms
from calibadv.lab.folder import locked
from calibadv.lab.jobs import Job, check_jobs, play

WRITES = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1]); (run / "model").mkdir(parents=True)
lines = [{"step": s, "reward": s / 10} for s in (1, 2)]
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines) + '{"step": 3, "rew')
(run / "eval.jsonl").write_text('{"step": 0, "f1": 0.4}\\n')
"""


def job(folder: Path, code: str, *, seed: int = 0) -> Job:
    command = (sys.executable, "-c", code, str(folder))
    return Job(arm=Arm.parse("grpo"), seed=seed, folder=folder, num_steps=2, command=command)


def test_arms_whose_names_hold_dots_keep_their_files_apart(tmp_path: Path) -> None:
    arms = parse_arms("calibadv:lambda=0.25,calibadv:lambda=0.5:lr=7e-4,calibadv:lambda=0.5:lr=1e-3")
    jobs = [
        Job(arm=arm, seed=seed, folder=tmp_path / f"{arm.folder}-seed{seed}", num_steps=1)
        for arm in arms
        for seed in range(2)
    ]
    assert len({path for job in jobs for path in (job.log, job.config, job.folder)}) == 18


def test_progress_is_what_the_run_has_written_torn_lines_aside(tmp_path: Path) -> None:
    one = job(tmp_path / "a", WRITES)
    seen: list[tuple[int, float | None, float | None]] = []
    play([one], workers=1, watch=lambda jobs: seen.append((jobs[0].step, jobs[0].reward, jobs[0].f1_test)))
    assert seen[-1] == (2, 0.2, 0.4)
    assert one.finished


def test_a_run_that_has_finished_is_not_run_again(tmp_path: Path) -> None:
    play([job(tmp_path / "a", WRITES)], workers=1)
    again = job(tmp_path / "a", "raise SystemExit(1)")
    play([again], workers=1)
    assert again.process is None


def test_a_failing_run_is_reported_with_its_log_after_the_others_are_done(tmp_path: Path) -> None:
    bad, good = job(tmp_path / "bad", "raise SystemExit('the retriever is gone')"), job(tmp_path / "good", WRITES)
    play([bad, good], workers=1)
    assert (bad.failed, good.failed, good.finished) == (True, False, True)
    with pytest.raises(CalibAdvError, match=r"1 of 2 runs failed[^!]*the retriever is gone"):
        check_jobs([bad, good])


@pytest.mark.parametrize("how", [KeyboardInterrupt, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_lab_leaves_no_run_behind(how: object, tmp_path: Path) -> None:
    slow = job(tmp_path / "slow", "import time; time.sleep(60)")

    def watch(_jobs: object) -> None:
        if isinstance(how, signal.Signals):
            os.kill(os.getpid(), how)
            time.sleep(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play([slow], workers=1, watch=watch)
    assert slow.process is not None
    assert slow.process.poll() == -signal.SIGTERM


def test_the_lock_of_a_lab_that_was_killed_is_held_by_its_runs(tmp_path: Path) -> None:
    slow = job(tmp_path / "slow", "import time; time.sleep(60)")
    with locked(tmp_path) as lock:
        slow.start(lock=lock)
    assert slow.process is not None
    with pytest.raises(CalibAdvError, match="still running"), locked(tmp_path):
        pass
    slow.stop()
    slow.process.wait()
    with locked(tmp_path):
        pass
