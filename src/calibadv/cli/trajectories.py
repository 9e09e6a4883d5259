"""``calibadv trajectories``: read what an agent wrote, turn by turn, in the terminal."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from calibadv.cli.console.options import Arm, Positive, command
from calibadv.cli.console.terminal import ANSWER, BOLD, DIM, FOUND, SEARCH, THINK, Blocks, clean
from calibadv.errors import DataError
from calibadv.runs.targets import run_of

if TYPE_CHECKING:
    from calibadv.data.trajectory_files import Record
    from calibadv.trajectory import Turn

EXAMPLES = """\
  calibadv trajectories runs/lab                   the last batch of a run, or of a lab's arm
  calibadv trajectories runs/lab --arm grpo -n 2   another arm of a lab
  calibadv trajectories runs/lab --step 1 -n 5     rollouts of the first step
  calibadv trajectories runs/lab --question 17     every rollout of one question, a whole group
  calibadv trajectories runs/lab/eval-test-1       what an evaluation played
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
    every_step = question is not None and step is None
    records: Iterable[Record] = read(files_of(run_of(run, arm=arm), step=step, every_step=every_step))
    if question is not None:
        records = (r for r in records if r.trajectory.question.id == question)
    if best:
        records = sorted(records, key=lambda record: -record.credit.reward if record.credit else 0.0)
    printer = Printer(Blocks(sys.stdout, width=120, limit=None if full else MAX_CHARACTERS))
    nothing = True
    for record in itertools.islice(records, number or (None if question is not None else 3)):
        nothing = False
        print(printer.trajectory(record))
    if nothing:
        wanted = f"question {question!r}" if question is not None else "trajectories"
        raise DataError(f"{run}: no {wanted} there")


def files_of(target: Path, *, step: int | None, every_step: bool) -> list[Path]:
    """The trajectory files of a run (of one step, or all), of an evaluation, or the file itself."""
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise DataError(f"{target}: no such folder; name the folder of a run or an evaluation")
    by_step: dict[int, list[Path]] = {}
    for path in sorted((target / "trajectories").glob("step-*.jsonl*")):
        by_step.setdefault(int(re.split(r"[-.]", path.name)[1]), []).append(path)
    if by_step and step is not None and step not in by_step:
        raise DataError(f"{target}: no trajectories of step {step}; there are those of {_ranges(sorted(by_step))}")
    if by_step:
        return [path for s, paths in by_step.items() if every_step or s == (step or max(by_step)) for path in paths]
    files = sorted(target.glob("trajectories.*")) or sorted(target.glob("finished.jsonl*"))
    if files:
        return files
    runs = sorted({path.parent.parent for path in target.glob("*/**/trajectories/step-*.jsonl*")})
    hint = f"; it holds these runs: {', '.join(map(str, runs[:8]))}" if runs else "; name the folder of a run"
    raise DataError(f"{target} holds no trajectories{hint}")


def read(files: Iterable[Path]) -> Iterator[Record]:
    """All records, file after file."""
    from calibadv.data.trajectory_files import read_trajectories

    for file in files:
        yield from read_trajectories(file)


class Printer:
    """Lays a trajectory out for the terminal."""

    def __init__(self, blocks: Blocks) -> None:
        self.block = blocks.block
        self.paint = blocks.paint

    def trajectory(self, record: Record) -> str:
        """The whole record as text."""
        trajectory, credit = record.trajectory, record.credit
        question = trajectory.question
        head = f"{question.dataset or 'question'} {question.id}, rollout {trajectory.rollout_index + 1}"
        if record.step is not None:
            head = f"step {record.step}, {head}"
        lines = [self.paint(clean(head), BOLD)]
        if credit is not None:
            scores = ", ".join(f"{clean(name)} {value:.2f}" for name, value in credit.scores.items())
            flags = "format valid" if credit.format_valid else "format invalid"
            garbled = ", garbled" if credit.garbled else ""
            lines[0] += f"  reward {self.paint(f'{credit.reward:.2f}', BOLD)} ({scores}; {flags}{garbled})"
        lines += self.block("question", question.text)
        lines += self.block("golden", " | ".join(question.golden_answers))
        for number, turn in enumerate(trajectory.turns):
            lines += ["", *self.turn(turn)]
            if credit is not None and number < len(credit.advantages):
                lines += self.advantage(record, number)
        if trajectory.stop_reason != "answer":
            reason = trajectory.stop_reason.value.replace("_", " ")
            lines += ["", *self.block("stopped", f"{reason}{f': {trajectory.error}' if trajectory.error else ''}")]
        return "\n".join(lines) + "\n"

    def turn(self, turn: Turn) -> list[str]:
        """Thinking, then the action."""
        lines = self.block("think", turn.thinking, THINK) if turn.thinking.strip() else []
        kind = turn.action.kind.value
        if kind == "invalid":
            return lines + self.block("no action", turn.text, THINK)
        lines += self.block(kind, turn.action.content, SEARCH if kind == "search" else ANSWER)
        if turn.observation:
            titles = "; ".join(document.title or document.id for document in turn.documents)
            lines += self.block("found", titles or "nothing", FOUND)
        elif kind == "search":
            lines += self.block("found", "(not carried out)", FOUND)
        return lines

    def advantage(self, record: Record, number: int) -> list[str]:
        """The turn's advantage before and after calibration."""
        credit = record.credit
        assert credit is not None
        before, after = credit.advantages[number], credit.calibrated[number]
        text = f"{before:+.3f}" if before == after else f"{before:+.3f} -> {after:+.3f}"
        details = [f"{len(record.trajectory.turns[number].token_ids)} tokens"]
        if credit.correctness is not None and credit.correctness[number]:
            details.append(f"query correctness {credit.correctness[number]:.2f}")
        return self.block("advantage", f"{text}  ({', '.join(details)})", DIM)


def _ranges(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
