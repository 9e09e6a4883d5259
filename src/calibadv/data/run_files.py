"""The files in a run's folder: what they are called, and reading its two logs.

=================  ================================================================================================
config.toml        every setting of the run; a folder that has it is a run's
metrics.jsonl      one line a batch
eval.jsonl         one line an evaluation
sft.jsonl          one line a step of supervised training
trajectories/      every rollout of a batch with its advantages, ``step-N.jsonl.gz``
checkpoint-N/      what a resumed run starts from, at optimizer step N; ``checkpoint_files.json`` lists its files
best/, model/      the weights of the best evaluation, and those at the end
run.json           what the run was made with: versions, and the user's own code
manifest.json      what an evaluation depends on
=================  ================================================================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from calibadv.errors import DataError
from calibadv.io.files import read_json_lines, write_json_lines

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
EVALUATIONS = "eval.jsonl"
SFT_METRICS = "sft.jsonl"
TRAJECTORIES = "trajectories"
MODEL = "model"
BEST = "best"
BEST_RECORD = "best.json"
MANIFEST = "manifest.json"
RUN = "run.json"
RESULTS = "results.json"
"""Of a lab or an evaluation: what came out, written last."""
CHECKPOINT = "checkpoint-"
CHECKPOINT_FILES = "checkpoint_files.json"
"""Of a checkpoint: what it holds, with sizes and digests."""
_TRAJECTORIES = re.compile(r"step-\d+(\.\d+)?\.jsonl(\.gz)?")


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / CONFIG).is_file()


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of an optimizer step is."""
    return run_dir / f"{CHECKPOINT}{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was saved at.

    >>> checkpoint_step(Path("run/checkpoint-40"))
    40
    """
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first; one that a kill cut short is among them."""
    found = (path for path in run_dir.glob(f"{CHECKPOINT}*") if path.is_dir())
    numbered = [path for path in found if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(numbered, key=checkpoint_step, reverse=True)


def trajectory_file(run_dir: Path, step: int, *, rank: int | None = None) -> Path:
    """Where the rollouts are that were trained at an optimizer step; of several processes each has its own file."""
    return run_dir / TRAJECTORIES / f"step-{step:06d}{'' if rank is None else f'.{rank}'}.jsonl.gz"


def trajectory_files(run_dir: Path) -> list[Path]:
    """The files of rollouts, in order of step; other files are not looked at."""
    found = (run_dir / TRAJECTORIES).glob("step-*.jsonl*")
    return sorted(path for path in found if _TRAJECTORIES.fullmatch(path.name))


def trajectory_step(path: Path) -> int:
    """The optimizer step in a file's name.

    >>> trajectory_step(Path("run/trajectories/step-000012.jsonl.gz"))
    12
    """
    return int(path.name.split("-")[1].split(".")[0])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, eval.jsonl or sft.jsonl in order of step; none when the file is not there.

    Half a last row (the run was killed, or is writing it) is left out. Of a step that was written twice (the run was
    killed and resumed) the last row counts.

    Args:
        path: The file; of a folder it is its metrics.jsonl.

    Returns:
        One record a row.

    Raises:
        DataError: A row is no object with a whole number as ``step``.
    """
    path = path / METRICS if path.is_dir() else path
    by_step: dict[int, dict[str, Any]] = {}
    for number, row in read_json_lines(path, growing=True) if path.is_file() else ():
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}:{number}: a line of metrics is an object with a whole number as `step`")
        by_step[row["step"]] = row
    return [by_step[step] for step in sorted(by_step)]


def cut_metrics(path: Path, *, last_step: int) -> None:
    """Forget the rows after ``last_step``: a resumed run writes them again."""
    if path.is_file():
        write_json_lines(path, [row for row in read_metrics(path) if row["step"] <= last_step])
