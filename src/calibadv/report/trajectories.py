"""A look at what the policy wrote: a few steps of a run, of each the group that taught the most, turn by turn.

Everything shown is untrusted (documents, questions, model output): it is escaped before any markup is added.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from calibadv.data.run_files import TRAJECTORIES
from calibadv.data.trajectory_files import Record, read_trajectories
from calibadv.io.terminal import clean
from calibadv.report.read_runs import Run
from calibadv.trajectory import Turn

T = TypeVar("T")

TAGS = re.compile(r"&lt;/?(?:think|search|information|answer)&gt;")


def escape(text: str) -> str:
    """Text that is safe in HTML, attributes included; control characters become a visible mark.

    >>> escape("a < b\\x00")
    'a &lt; b\\ufffd'
    """
    return html.escape(clean(text))


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the items, the first and the last among them.

    >>> evenly("abcdefg", 3)
    ['a', 'd', 'g']
    """
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def groups_to_show(folder: Path, *, num_steps: int) -> list[tuple[int | None, list[Record]]]:
    """Of a few steps, the group whose rewards lie furthest apart, best trajectory first."""
    files = sorted(p for p in folder.glob("[!.]*") if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet")))
    by_step: dict[int | None, dict[str, list[Record]]] = {}
    for file in evenly(files, num_steps):
        for record in read_trajectories(file):
            group_id = record.credit.group_id if record.credit else record.trajectory.question.id
            by_step.setdefault(record.step, {}).setdefault(group_id, []).append(record)
    steps = evenly(sorted(by_step, key=lambda step: -1 if step is None else step), num_steps)
    chosen = []
    for step in steps:
        group = max(by_step[step].values(), key=spread_of_rewards)
        chosen.append((step, sorted(group, key=reward_of, reverse=True)))
    return chosen


def reward_of(record: Record) -> float:
    return record.credit.reward if record.credit else 0.0


def spread_of_rewards(group: Sequence[Record]) -> float:
    rewards = [reward_of(record) for record in group]
    return max(rewards) - min(rewards)


def show_run(run: Run, *, num_steps: int = 4, num_trajectories: int = 4) -> str:
    """HTML for some trajectories of a run; says so when none were kept."""
    groups = groups_to_show(run.folder / TRAJECTORIES, num_steps=num_steps) if run.folder else []
    if not groups:
        return "<p>No trajectories were kept for this run.</p>"
    parts = []
    for step, group in groups:
        question = group[0].trajectory.question
        golden = " / ".join(question.golden_answers)
        when = "Not trained on" if step is None else f"Step {step}"
        parts.append(f"<h3>{when}: {escape(question.text)}</h3><p>Golden answer: {escape(golden)}</p>")
        parts += [show_trajectory(record) for record in evenly(group, num_trajectories)]
    return "\n".join(parts)


def show_trajectory(record: Record) -> str:
    trajectory, credit = record.trajectory, record.credit
    answer = "no answer" if trajectory.answer is None else f"answer: {trajectory.answer}"
    pills = [f"stopped: {trajectory.stop_reason}"]
    if credit is not None:
        pills.insert(0, f"reward {credit.reward:.2f}")
        pills += [] if credit.format_valid else ["invalid format"]
        pills += ["garbled"] if credit.garbled else []
    marks = "".join(f'<span class="pill">{escape(p)}</span>' for p in pills)
    error = f'<p class="note">{escape(trajectory.error)}</p>' if trajectory.error else ""
    turns = "".join(show_turn(record, index, turn) for index, turn in enumerate(trajectory.turns))
    return f'<details class="trajectory"><summary>{escape(answer)}{marks}</summary>{error}{turns}</details>'


def show_turn(record: Record, index: int, turn: Turn) -> str:
    credit = record.credit
    facts = [f"turn {index + 1}: {turn.action.kind}"]
    if credit is not None and index < len(credit.calibrated):
        before, after = signed(credit.advantages[index]), signed(credit.calibrated[index])
        unchanged = before == after  # always, in a run without calibration
        facts.append(f"advantage {after}" if unchanged else f"advantage {before} before, {after} after calibration")
        if credit.correctness is not None and turn.documents:
            facts.append(f"query correctness {credit.correctness[index]:.2f}")
    if turn.truncated:
        facts.append("cut at the token limit")
    text = TAGS.sub(lambda tag: f'<span class="tag">{tag.group()}</span>', escape(turn.text))
    head = "".join(f"<span>{fact}</span>" for fact in facts)
    return f'<div class="turn"><header>{head}</header><pre>{text}</pre>{show_documents(turn)}</div>'


def show_documents(turn: Turn) -> str:
    if not turn.documents:
        return ""
    titles = ", ".join(document.title or document.id for document in turn.documents)
    bodies = "".join(
        f'<div class="document"><b>{escape(document.title)}</b> [{escape(document.id)}] {escape(document.text)}</div>'
        for document in turn.documents
    )
    noun = "document" if len(turn.documents) == 1 else "documents"
    return f"<details><summary>{len(turn.documents)} {noun}: {escape(titles)}</summary>{bodies}</details>"


def signed(value: float) -> str:
    """A number with its sign, coloured by it."""
    kind = "positive" if value > 0 else "negative" if value < 0 else ""
    text = "0.00" if abs(value) < 0.005 else f"{value:+.2f}"
    return f'<span class="{kind}">{text}</span>'
