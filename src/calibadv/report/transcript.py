"""What an agent wrote as plain text, turn by turn, with rewards and advantages: for a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from calibadv.data.run_files import trajectory_files, trajectory_step
from calibadv.data.trajectory_files import Record, read_trajectories
from calibadv.errors import DataError
from calibadv.io.terminal import BOLD, CYAN, DIM, GREEN, YELLOW, Blocks, clean
from calibadv.trajectory import Turn


def read_records(
    target: Path, *, step: int | None = None, question: str | None = None, best: bool = False, number: int | None = None
) -> Iterator[Record]:
    """The records of a run, of an evaluation, or of one file.

    Args:
        target: Folder of a run or an evaluation, or a file of trajectories.
        step: Optimizer step. Not set: the last one that was saved; with ``question`` every one.
        question: Id of the only question.
        best: Highest reward first.
        number: At most so many.

    Raises:
        DataError: There is nothing of that kind.
    """
    files = files_of(target, step=step, every_step=question is not None and step is None)
    records: Iterable[Record] = (record for file in files for record in read_trajectories(file))
    if question is not None:
        records = (record for record in records if record.trajectory.question.id == question)
    if best:
        records = sorted(records, key=lambda record: -record.credit.reward if record.credit else 0.0)
    found = False
    for record in islice(records, number):
        found = True
        yield record
    if not found:
        wanted = f"question {question!r}" if question is not None else "trajectories"
        raise DataError(f"{target}: no {wanted} there")


def files_of(target: Path, *, step: int | None, every_step: bool) -> list[Path]:
    """The trajectory files of a run (of one step, or all), of an evaluation, or the file itself."""
    if target.is_file():
        return [target]
    if not target.is_dir():
        raise DataError(f"{target}: no such folder; name the folder of a run or an evaluation")
    by_step: dict[int, list[Path]] = {}
    for path in trajectory_files(target):
        by_step.setdefault(trajectory_step(path), []).append(path)
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


class Transcript:
    """Lays trajectories out as text."""

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
        lines = self.block("think", turn.thinking, DIM) if turn.thinking.strip() else []
        kind = turn.action.kind.value
        if kind == "invalid":
            return lines + self.block("no action", turn.text, DIM)
        lines += self.block(kind, turn.action.content, CYAN if kind == "search" else GREEN)
        if turn.observation:
            titles = "; ".join(document.title or document.id for document in turn.documents)
            lines += self.block("found", titles or "nothing", YELLOW)
        elif kind == "search":
            lines += self.block("found", "(not carried out)", YELLOW)
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
