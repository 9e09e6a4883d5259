"""How a training run shows its steps: one short line each, and on a terminal a bar with the time left below them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self, TextIO

WIDTH = 79
SHOWN = (
    ("reward", "reward {:.3f}"),
    ("f1", "F1 {:.3f}"),
    ("format_valid", "format {:.0%}"),
    ("kl", "KL {:z.4f}"),  # only with training.beta
    ("searches", "searches {:.1f}"),
    ("mispenalised_share", "mis-penalised {:.0%}"),
    ("entropy", "entropy {:.2f}"),
    ("groups_without_signal", "no signal {:.0%}"),
    ("grad_norm", "grad {:.2g}"),
)
"""Figures of a line in metrics.jsonl, the important ones first; what does not fit into `WIDTH` is left out."""


def is_interactive() -> bool:
    """Whether somebody is watching: a terminal, or a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


class StepLines:
    """A listener of a training run; a context manager, because of the bar."""

    def __init__(self, steps: int, *, steps_per_batch: int = 1, stream: TextIO | None = None) -> None:
        self.steps = steps
        self.steps_per_batch = steps_per_batch
        self.stream = sys.stdout if stream is None else stream
        self._bar: Any = None
        self._task: Any = None
        self._seconds: list[float] = []

    def __enter__(self) -> Self:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Progress(*columns, transient=True, console=Console(file=self.stream))
            self._task = self._bar.add_task("steps", total=self.steps, left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, line: dict[str, Any]) -> None:
        """Show one line of metrics.jsonl or eval.jsonl."""
        start = f"step {line['step']:>{len(str(self.steps))}}/{self.steps}"
        if "questions" in line:
            self._write(f"{start}  evaluation: {evaluation_figures(line)}")
            return
        left = self._time_left(line)
        self._write(step_figures(line, start=start, end=left))
        if self._bar is not None:
            self._bar.update(self._task, completed=line["step"], left=left)
        if line.get("skipped_updates"):
            self._write(f"  {line['skipped_updates']} update(s) skipped: a gradient was not finite")

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def _time_left(self, line: dict[str, Any]) -> str:
        """From the mean time of a batch in this session."""
        if line.get("seconds_step") is None:
            return ""
        self._seconds.append(line["seconds_step"])
        batches = (self.steps - line["step"]) / self.steps_per_batch
        return f"{clock(sum(self._seconds) / len(self._seconds) * batches)} left"


def step_figures(line: dict[str, Any], *, start: str, end: str) -> str:
    """One batch in less than 80 columns."""
    text = start
    for key, form in SHOWN:
        part = f"  {form.format(line[key])}" if line.get(key) is not None else ""
        if len(text) + len(part) + (len(end) + 2 if end else 0) <= WIDTH:
            text += part
    return f"{text}  {end}" if end else text


def sft_figures(line: dict[str, Any]) -> str:
    """One line of sft.jsonl; a missing figure was not finite."""
    shown = [f"{name} {line[name]:.3g}" for name in ("loss", "grad_norm", "lr") if line[name] is not None]
    return f"step {line['step']:>4}  epoch {line['epoch']:.2f}  {'  '.join(shown)}"


def evaluation_figures(line: dict[str, Any]) -> str:
    """F1 with its interval, and EM."""
    low, high = line.get("f1_low"), line.get("f1_high")
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"F1 {line['f1']:.3f}{interval}, EM {line['em']:.3f}"


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours when there are any.

    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
