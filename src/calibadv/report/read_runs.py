"""Reading what runs and labs left behind: metrics, evaluations, the lab's ``results.json``.

An *arm* is one setting of an experiment; its runs differ by seed only. Every plot takes arms, so one run, several
runs and a lab with seeds go through the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from calibadv.data.run_files import EVALUATIONS, METRICS, RESULTS, read_metrics
from calibadv.errors import DataError
from calibadv.io.files import read_json

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run as its metrics tell it."""

    name: str
    folder: Path | None = None
    rows: tuple[Mapping[str, Any], ...] = ()  # [num_steps], in order of step
    tests: tuple[Mapping[str, Any], ...] = ()  # [num_evaluations], in order of step
    result: Mapping[str, Any] = field(default_factory=dict)
    """The run's entry in the lab's results; empty for a run on its own."""

    def series(self, key: str) -> tuple[Floats, Floats]:
        """Steps and values of a metric; steps at which it is missing or not finite are left out.

        ``test_`` in front of the name asks for the evaluations on the test questions.

        >>> run = Run(name="a", rows=({"step": 1, "f1": 0.25}, {"step": 2}, {"step": 3, "f1": 0.5}))
        >>> [values.tolist() for values in run.series("f1")]
        [[1.0, 3.0], [0.25, 0.5]]
        """
        rows, name = (self.tests, key.removeprefix("test_")) if key.startswith("test_") else (self.rows, key)
        pairs = [(row["step"], row.get(name)) for row in rows]
        if not self.rows and self.result.get(f"{key}_curve"):
            # A lab whose run folders are gone still has the curves of its results.
            curve = self.result[f"{key}_curve"]
            pairs = list(zip(self.result.get("steps") or range(1, len(curve) + 1), curve, strict=False))
        known = [(float(step), float(value)) for step, value in pairs if is_number(value)]
        steps, values = zip(*known, strict=True) if known else ((), ())
        return np.array(steps, dtype=float), np.array(values, dtype=float)

    def pooled(self, key: str) -> Floats:
        """All values of a metric that holds a list a step, steps joined."""
        values = [v for row in self.rows for v in (row.get(key) or ()) if is_number(v)]
        return np.array(values, dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Runs that differ by their seed only."""

    name: str
    runs: tuple[Run, ...]  # [num_seeds]


def is_number(value: object) -> TypeGuard[int | float]:
    """A finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_run(folder: str | Path, *, name: str | None = None, result: Mapping[str, Any] | None = None) -> Run:
    """A run folder."""
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder} is not a run folder: it has no {METRICS}")
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        rows=tuple(read_metrics(folder / METRICS)),
        tests=tuple(read_metrics(folder / EVALUATIONS)),
        result=result or {},
    )


def read_lab(results: str | Path) -> list[Arm]:
    """The arms of a lab's ``results.json`` (or of its folder), with their metrics where these still exist."""
    path = Path(results)
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist: name the folder of a run or of a lab")
    entries = read_json(path).get("arms")
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{path} is not the {RESULTS} of a lab: an object with a list "arms" that is not empty')
    runs = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise DataError(f'{path}: arms[{number}] must be an object with a string "name"')
        # Relative to the results, so that a lab folder can be moved; else as written.
        written = str(entry.get("run_dir") or "")
        places = [place for place in (path.parent / written, Path(written)) if written and (place / METRICS).is_file()]
        if places:
            runs.append(read_run(places[0], name=entry["name"], result=entry))
        else:
            runs.append(Run(name=entry["name"], result=entry))
    return join_seeds(runs)


def read_verdict(folder: Path) -> str:
    """What a lab has shown, in words; empty for a run."""
    results = folder / RESULTS
    return str(read_json(results).get("verdict", "")) if results.is_file() else ""


def join_seeds(runs: Iterable[Run]) -> list[Arm]:
    """Runs of one name are seeds of one arm; the order of first appearance stays.

    >>> [(arm.name, len(arm.runs)) for arm in join_seeds([Run(name="a"), Run(name="b"), Run(name="a")])]
    [('a', 2), ('b', 1)]
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    return [Arm(name=name, runs=tuple(seeds)) for name, seeds in by_name.items()]


def read_arms(folder: str | Path) -> list[Arm]:
    """A lab folder's arms, or a run folder as the only arm."""
    folder = Path(folder)
    return join_seeds([read_run(folder)]) if (folder / METRICS).is_file() else read_lab(folder)


def arms_of(folders: str | Path | Sequence[str | Path], *, names: Sequence[str] | None = None) -> list[Arm]:
    """One arm a run folder. Folders of one name get their parent's name in front."""
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(f) for f in folders]
    if not paths:
        raise DataError("no run folder was named")
    if names is None:
        short = [p.resolve().name for p in paths]
        names = [
            f"{p.resolve().parent.name}/{s}" if short.count(s) > 1 else s for p, s in zip(paths, short, strict=True)
        ]
    return [Arm(name=name, runs=(read_run(path, name=name),)) for path, name in zip(paths, names, strict=True)]
