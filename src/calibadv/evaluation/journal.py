"""The journal of an evaluation: every finished rollout, on disk the moment it finishes, so that none is played twice.

It is a file of trajectories (docs/trajectory-format.md) in the order in which they finished, with three more fields a
record: ``latency_s``, ``session`` (from 0, one more each time the evaluation is continued) and ``elapsed_s`` (wall
clock of its data set in that session).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from calibadv.data.trajectory_files import Record, from_row, to_row, write_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.io.clock import SYSTEM_CLOCK, Clock
from calibadv.io.files import json_line, read_json_lines, try_lock
from calibadv.trajectory import Trajectory

logger = logging.getLogger(__name__)

Key = tuple[str, str, int]
"""Data set, question id, sample."""
_SYNC_EVERY_S = 1.0


class Journal:
    """Appends finished rollouts to a file, and knows those that an earlier session left there.

    A killed process loses nothing: every record is handed to the operating system at once, and to the disk at least
    once a second while rollouts finish. A torn last record is cut off when the file is opened again.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = path
        self.clock = clock
        self.finished: dict[Key, Trajectory] = {}
        self.latency_s: dict[Key, float] = {}
        self._elapsed: dict[tuple[int, str], float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if not try_lock(self._file):  # two evaluations in one folder would tear each other's records
                raise ConfigError(
                    f"{path.parent}: another evaluation is writing there; wait for it or name another folder"
                )
            write_trajectories(path, [], append=True)  # starts the file, or removes an incomplete last record
            for number, row in read_json_lines(path):
                if number > 1:  # the header, which appending has checked
                    self._take(row, path)
        except BaseException:
            os.close(self._file)
            raise
        self._session = 1 + max((session for session, _ in self._elapsed), default=-1)
        self._synced = 0.0
        self._started: dict[str, float] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def start(self, dataset: str) -> None:
        """The clock of a data set begins to run."""
        self._started[dataset] = self.clock.now()

    def add(self, trajectory: Trajectory, latency_s: float) -> None:
        """Keep a rollout. One that is there already is skipped, unless it had failed."""
        key = key_of(trajectory)
        if key in self.finished and not self.finished[key].failed:
            return
        dataset = trajectory.question.dataset
        elapsed = self.clock.now() - self._started.setdefault(dataset, self.clock.now())
        row = to_row(Record(trajectory=trajectory))
        row |= {"latency_s": latency_s, "session": self._session, "elapsed_s": elapsed}
        self._append(json_line(row))
        self.finished[key] = trajectory
        self.latency_s[key] = latency_s
        self._elapsed[self._session, dataset] = elapsed

    def seconds(self, dataset: str) -> float:
        """Wall clock of a data set's rollouts, over all sessions."""
        return sum(elapsed for (_, name), elapsed in self._elapsed.items() if name == dataset)

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            if self.clock.now() - self._synced > _SYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = self.clock.now()
        except OSError as error:
            os.ftruncate(self._file, end)  # half a record is none
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno or 0)}: the rollout that just finished could not be written; the "
                f"{len(self.finished)} before it are safe",
                str(self.path),
            ) from error

    def _take(self, row: dict[str, Any], path: Path) -> None:
        try:
            trajectory = from_row(row).trajectory
            key = key_of(trajectory)
            self.latency_s[key] = float(row["latency_s"])
            place = (int(row["session"]), trajectory.question.dataset)
            self._elapsed[place] = max(self._elapsed.get(place, 0.0), float(row["elapsed_s"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not the journal of an evaluation ({type(error).__name__}: {error})") from error
        self.finished[key] = trajectory


def key_of(trajectory: Trajectory) -> Key:
    """What a rollout is known by."""
    return (trajectory.question.dataset, trajectory.question.id, trajectory.rollout_index)
