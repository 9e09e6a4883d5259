"""``calibadv report``: figures and one page from what a run or a lab wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import Arm, command

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
    from calibadv.runs.report import write_report

    written = write_report(runs, arm=arm, out=out)
    if written.page is not None:
        print(written.page)
    print(f"{len(written.figures)} figures in {written.folder}")
