"""The runs of a lab: each is ``calibadv train`` in a process of its own with one thread.

Two arms on two threads each are slower than two arms on one thread each.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibadv.data.run_files import EVALUATIONS, METRICS, MODEL, is_run, read_metrics
from calibadv.errors import CalibAdvError
from calibadv.io.signals import handled
from calibadv.lab.arms import Arm

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
STOPS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a lab as Ctrl-C does."""

STOPPED = tuple(code for s in (signal.SIGINT, signal.SIGTERM) for code in (128 + s, -s))
"""Exit codes of a run that was asked to stop, after and before it could save a checkpoint."""

Watch = Callable[[Sequence["Job"]], None]


@dataclass(slots=True, kw_only=True)
class Job:
    """One arm with one seed."""

    arm: Arm
    seed: int
    folder: Path
    num_steps: int
    toml: str = ""
    """Its configuration."""
    command: Sequence[str] = ()
    """What to start in place of ``calibadv train``."""
    process: subprocess.Popen[bytes] | None = None
    step: int = 0
    reward: float | None = None
    f1_test: float | None = None

    @property
    def log(self) -> Path:
        """What the run printed."""
        return beside(self.folder, ".log")

    @property
    def config(self) -> Path:
        """The run's configuration."""
        return beside(self.folder, ".toml")

    @property
    def finished(self) -> bool:
        """The trained model is there: a run writes it last, and whole."""
        return (self.folder / MODEL).is_dir()

    @property
    def failed(self) -> bool:
        """The process ended with an error, and not because it was asked to stop."""
        return self.process is not None and self.process.poll() not in (None, 0, *STOPPED)

    def refresh(self) -> None:
        """Read how far it is."""
        for row in read_metrics(self.folder / METRICS)[-1:]:
            self.step, self.reward = row["step"], row["reward"]
        for row in read_metrics(self.folder / EVALUATIONS)[-1:]:
            self.f1_test = row["f1"]

    def start(self, *, lock: int | None = None) -> None:
        """Start the run, or continue it where it was stopped; the process inherits ``lock``."""
        if is_run(self.folder):
            arguments = ["--resume", str(self.folder)]
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # stopped before it began: nothing is in there
            arguments = [str(self.config)]
        command = self.command or (sys.executable, "-m", "calibadv", "train", *arguments)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | ONE_THREAD,
                pass_fds=() if lock is None else (lock,),
                process_group=0,  # Ctrl-C reaches the lab alone, which asks each run once to save and stop
            )

    def stop(self) -> None:
        """Ask the run to save a checkpoint and stop, if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


def beside(folder: Path, ending: str) -> Path:
    """The file of that ending next to a folder whose name may hold dots.

    >>> beside(Path("lambda=0.25-seed0"), ".log").name
    'lambda=0.25-seed0.log'
    """
    return folder.with_name(folder.name + ending)


def play(jobs: Sequence[Job], *, workers: int, watch: Watch | None = None, lock: int | None = None) -> None:
    """Run what is not finished, ``workers`` at a time; all save and stop when the caller is interrupted."""
    waiting = [job for job in jobs if not job.finished]
    running: list[Job] = []
    try:
        with handled(signal.default_int_handler, *STOPS):
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    job.start(lock=lock)
                    running.append(job)
                time.sleep(0.5)
                ended = [job for job in running if job.process is not None and job.process.poll() is not None]
                for job in running:
                    job.refresh()
                if watch is not None:
                    watch(jobs)
                running = [job for job in running if job not in ended]
    finally:
        for job in running:
            job.stop()
        for job in running:
            if job.process is not None:
                job.process.wait()


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise `CalibAdvError` with the end of their logs if runs failed."""
    failed = [job for job in jobs if job.failed]
    if failed:
        logs = "\n".join(f"the end of {job.log}:\n{tail(job.log)}" for job in failed)
        raise CalibAdvError(f"{len(failed)} of {len(jobs)} runs failed; the others are in the results.\n{logs}")


def tail(path: Path, *, num_lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
