"""How the lab's runs are shown while they train, and the table at the end."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Self, TextIO

from calibadv.data.run_files import RESULTS
from calibadv.io.files import read_json
from calibadv.io.terminal import text_table
from calibadv.lab.jobs import Job


class LabProgress:
    """One bar per run on a terminal; elsewhere one line per run for every tenth of its steps."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self._bars: Any = None
        self._tasks: dict[int, Any] = {}
        self._tenths: dict[int, int] = {}

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=Console(file=self.stream))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Called twice a second with all runs."""
        for number, job in enumerate(jobs):
            if job.process is None:
                continue
            if self._bars is None:
                self._print_tenths(number, job)
                continue
            if number not in self._tasks:
                self._tasks[number] = self._bars.add_task(job.folder.name, total=job.num_steps, figures="")
            self._bars.update(self._tasks[number], completed=job.step, figures=figures_of(job))

    def _print_tenths(self, number: int, job: Job) -> None:
        tenth = 10 * job.step // max(job.num_steps, 1)
        if tenth > self._tenths.get(number, 0):
            self._tenths[number] = tenth
            self.stream.write(f"{job.folder.name}: step {job.step}/{job.num_steps}  {figures_of(job)}\n")
            self.stream.flush()


def figures_of(job: Job) -> str:
    """How a run is doing, in a few words."""
    reward = "" if job.reward is None else f"reward {job.reward:.3f}"
    return reward if job.f1_test is None else f"{reward}  test F1 {job.f1_test:.3f}".strip()


def summary(folder: Path) -> str:
    """Test F1 of every arm before and after, mean over its seeds, and the verdict."""
    result = read_json(folder / RESULTS)
    entries = [entry for entry in result["arms"] if entry["status"] == "finished"]
    rows = []
    for name in dict.fromkeys(entry["name"] for entry in entries):
        runs = [entry for entry in entries if entry["name"] == name]
        before, after, seconds = (fmean(run[key] for run in runs) for key in ("f1_before", "f1_after", "seconds"))
        spread = (
            " ".join(f"{run['f1_after']:.3f}" for run in runs) if len(runs) > 1 else f"± {runs[0]['f1_after_se']:.3f}"
        )
        fell = f"{sum(run['collapsed'] for run in runs)} of {len(runs)}"
        rows.append([name, f"{before:.3f}", f"{after:.3f}", spread, f"{after - before:+.3f}", fell, f"{seconds:.0f}"])
    header = ["arm", "test F1 before", "after", "(seeds, or standard error)", "gain", "collapsed", "seconds a run"]
    return f"{text_table(header, rows)}\n\n{textwrap.fill(result['verdict'], 80)}"
