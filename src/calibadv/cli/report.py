"""``calibadv report``: figures and one page from what a run or a lab wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import Arm, command
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.runs.targets import lab_arms, run_of

EXAMPLES = """\
  calibadv report runs/lab                    report.html and figures/ inside the folder of a run or a lab
  calibadv report runs/lab --arm grpo         one run of a lab
  calibadv report runs/lab --out look         write somewhere else
  calibadv report runs/a runs/b --out runs/a-and-b    several runs against each other
"""

app = command("report", examples=EXAMPLES)


@app.default
def report(
    runs: Annotated[tuple[Path, ...], Parameter(name="RUN", help="Folder of a run or a lab.", show_default=False)],
    /,
    *,
    arm: Arm = None,
    out: Annotated[Path | None, Parameter(metavar="DIR", help="Where to write (default: inside the folder).")] = None,
) -> None:
    """Draw the curves of a run, a lab, or several runs; needs no torch."""
    for folder in runs:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; name the folder of a run, such as runs/lab")
    require_packages("matplotlib", extra="report", what="a report")
    from calibadv.report.figures import draw_lab, draw_run
    from calibadv.report.page import PAGE, write_page

    if len(runs) > 1:
        if out is None:
            raise ConfigError("several runs need --out DIR for their common figures")
        figures = draw_run([run_of(folder, arm=arm) for folder in runs], out)
        print(f"{len(figures)} figures of {len(runs)} runs in {out}")
        return
    folder = runs[0] if arm is None else run_of(runs[0], arm=arm)
    target = out or folder
    draw = draw_lab if lab_arms(folder) else draw_run
    figures = draw(folder, target / "figures")
    page = write_page(folder, out=target / PAGE)
    print(f"{page}\n{len(figures)} figures in {target / 'figures'}")
