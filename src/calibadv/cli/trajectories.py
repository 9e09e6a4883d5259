"""``calibadv trajectories``: read what an agent wrote, turn by turn, in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from calibadv.cli.options import Arm, Positive, command
from calibadv.io.terminal import Blocks

EXAMPLES = """\
  calibadv trajectories runs/lab                   the last batch of a run, or of a lab's arm
  calibadv trajectories runs/lab --arm grpo -n 2   another arm of a lab
  calibadv trajectories runs/lab --step 2 -n 5     rollouts of the first batch
  calibadv trajectories runs/lab --question 17     every rollout of one question, a whole group
  calibadv trajectories runs/lab-run/eval-test-1   what an evaluation played
  calibadv trajectories runs/lab --best            highest reward first

Each turn shows the thinking, the query with the titles found or the answer, and
the turn's advantage before and after calibration. NO_COLOR=1 switches colours
off.
"""
MAX_CHARACTERS = 600

app = command("trajectories", examples=EXAMPLES)


@app.default
def trajectories(
    run: Annotated[Path, Parameter(help="Folder of a run, a lab or an evaluation, or one file.")],
    /,
    *,
    arm: Arm = None,
    step: Annotated[int | None, Parameter(help="Optimizer step (default: the last one that was saved).")] = None,
    question: Annotated[str | None, Parameter(metavar="ID", help="Only this one, in every step unless --step.")] = None,
    number: Annotated[Positive, Parameter(name="-n", help="At most so many rollouts (default: 3).")] = None,
    best: Annotated[bool, Parameter(help="Highest reward first.", show_default=False)] = False,
    full: Annotated[bool, Parameter(help="Do not shorten long texts.", show_default=False)] = False,
) -> None:
    """Show what the agent wrote, turn by turn, with rewards and advantages."""
    from calibadv.report.transcript import Transcript, read_records
    from calibadv.runs.targets import run_of

    transcript = Transcript(Blocks(sys.stdout, width=120, limit=None if full else MAX_CHARACTERS))
    at_most = number or (None if question is not None else 3)
    for record in read_records(run_of(run, arm=arm), step=step, question=question, best=best, number=at_most):
        print(transcript.trajectory(record))
