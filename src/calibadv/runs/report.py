"""`write_report`: figures and one page from what a run or a lab wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.runs.targets import lab_arms, run_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was written."""

    figures: list[Path]
    folder: Path
    """Where the figures are."""
    page: Path | None
    """One page with everything; several runs have none."""


def write_report(runs: Sequence[Path], *, arm: str | None = None, out: Path | None = None) -> Report:
    """Draw the curves of a run, a lab, or several runs; needs no torch.

    Args:
        runs: Folders of runs or labs.
        arm: Which arm of a lab, instead of all of them.
        out: Where to write. Not set: inside the folder; several runs need it.

    Raises:
        ConfigError: A folder is not there, or nothing says where to write.
    """
    for folder in runs:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; name the folder of a run, such as runs/lab")
    require_packages("matplotlib", extra="report", what="a report")
    from calibadv.report.figures import draw_lab, draw_run
    from calibadv.report.page import PAGE, write_page

    if len(runs) > 1:
        if out is None:
            raise ConfigError("several runs need --out DIR for their common figures")
        return Report(figures=draw_run([run_of(folder, arm=arm) for folder in runs], out), folder=out, page=None)
    folder = runs[0] if arm is None else run_of(runs[0], arm=arm)
    target = out or folder
    draw = draw_lab if lab_arms(folder) else draw_run
    figures = draw(folder, target / "figures")
    return Report(figures=figures, folder=target / "figures", page=write_page(folder, out=target / PAGE))
