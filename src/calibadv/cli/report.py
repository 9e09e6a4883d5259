"""``calibadv report``: figures and one page from what a run or a lab wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calibadv.cli.options import new_command, require_packages
from calibadv.errors import ConfigError

EPILOG = """\
examples
  calibadv report runs/lab                      report.html and figures/ inside the run's folder
  calibadv report runs/lab --out look           write somewhere else
  calibadv report runs/a runs/b --out runs/a-and-b     figures of several runs against each other
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "report",
        help="draw the curves of a run and write a page about it",
        description="Draw the curves of a run, a lab, or several runs; needs no torch.",
        epilog=EPILOG,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run or a lab")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: inside the run's folder)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Draw."""
    require_packages("matplotlib", extra="report", what="a report")
    from calibadv.report.figures import draw_lab, draw_run
    from calibadv.report.page import PAGE, write_page

    folders, out = arguments.runs, arguments.out
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; name the folder of a run, such as runs/lab")
    if len(folders) > 1:
        if out is None:
            raise ConfigError("several runs need --out DIR for their common figures")
        figures = draw_run(folders, out)
        print(f"{len(figures)} figures of {len(folders)} runs in {out}")
        return
    (folder,) = folders
    target = out or folder
    results = folder / "results.json"
    figures = draw_lab(results, target / "figures") if results.is_file() else draw_run(folder, target / "figures")
    page = write_page(folder, out=target / PAGE)
    print(f"{page}\n{len(figures)} figures in {target / 'figures'}")
