"""Existing rollouts to trajectories and grades: files of this package, and plain-text traces of other systems.

A trace is a JSON line with ``response`` and, where known, ``prompt``, ``question``, ``golden_answers``, ``id`` (or
``question_id``), ``dataset`` and ``run``. Three ways of writing tool calls are told apart:

- tags: ``<search>`` and ``<information>`` (Search-R1, CalibAdv, this package);
- markers: ``<|begin_of_query|>`` and ``<|begin_of_documents|>`` (R1-Searcher);
- messages: ``<tool_call>`` and ``<tool_response>`` (chat templates with tools).

In each, what was handed to the model is taken out before anything is graded. Plain text does not say who wrote what, so
a document may try to end its block early: text up to a closing mark that nothing opened counts as given to the model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibadv.data.trajectory_files import FORMAT, read_trajectories
from calibadv.dialogue.parse import read_turn
from calibadv.errors import DataError
from calibadv.evaluation.evaluate import EvalResult, grade_all
from calibadv.io.files import read_json_lines
from calibadv.tags import INFORMATION_CLOSE, INFORMATION_OPEN, THINK_OPEN, without_end_markers
from calibadv.trajectory import Action, ActionKind, Question, Trajectory, Turn, reason_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A rollout from a file."""

    run: str
    """Which system or setting it comes from; "" when the file does not say."""
    trajectory: Trajectory


class _Dialect:
    """How another system writes searches: what it hands to the model, and where the query stands."""

    def __init__(self, *, mark: str, observation: str, query: str) -> None:
        self.mark = re.compile(mark)
        self.observation = re.compile(observation, re.DOTALL)
        self.query = re.compile(query, re.DOTALL)


MARKERS = _Dialect(
    mark=r"<\|(?:begin_of_query|begin_of_documents)\|>",
    # Documents follow a query, up to the last closing mark before other documents. A block that never closes reaches to
    # the end: it was cut off.
    observation=(
        r"(?<=<\|end_of_query\|>)\s*<\|begin_of_documents\|>"
        r"(?:(?:(?!<\|begin_of_documents\|>).)*<\|end_of_documents\|>\s*|.*\Z)"
    ),
    query=r"<\|begin_of_query\|>((?:(?!<\|(?:begin|end)_of_query\|>).)*+)<\|end_of_query\|>",
)
MESSAGES = _Dialect(
    mark=r"<tool_(?:call|response)>",
    # The whole of the user's turn, up to where the model's own begins, before another call; or to the end.
    observation=(
        r"(?<=</tool_call>)\s*(?:<\|im_end\|>)?\s*(?:<\|im_start\|>(?:user|tool)\s*)?<tool_response>"
        r"(?:(?:(?!<tool_call>).)*</tool_response>\s*(?:<\|im_end\|>\s*)?<\|im_start\|>assistant\s*(?:<think>)?|.*\Z)"
    ),
    # The first query of a call. Nothing here is tried twice: a model that repeats itself without an end must not cost
    # hours.
    query=(
        r'<tool_call>(?:(?!</?tool_call>|<parameter=query>|"query"\s*:\s*").)*+'
        r"(?:<parameter=query>(?P<parameter>(?:(?!</parameter>|</?tool_call>).)*+)</parameter>"
        r'|"query"\s*:\s*"(?P<json>(?:[^"\\]|\\.)*+)")(?:(?!</?tool_call>).)*+</tool_call>'
    ),
)


def read_traces(path: str | Path) -> Iterator[Trace]:
    """The rollouts of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file, in order."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of trajectories or traces")
    if path.suffix == ".parquet" or _has_header(path):
        for record in read_trajectories(path):
            yield Trace(run="", trajectory=record.trajectory)
        return
    known: dict[tuple[str, str], Question] = {}
    for number, row in _rows(path):
        yield _trace(row, where=f"{path}:{number}", number=number, known=known)


def score_traces(traces: Iterable[Trace], *, score: str = "f1", seed: int = 0) -> dict[str, EvalResult]:
    """Run -> grades and means. Rollouts of one question in one run are its samples, in order."""
    by_run: dict[str, list[Trajectory]] = {}
    for trace in traces:
        by_run.setdefault(trace.run, []).append(trace.trajectory)
    results = {}
    for run, trajectories in by_run.items():
        numbered = sorted(_numbered(trajectories), key=_order_of_datasets(trajectories))
        seconds = {t.question.dataset: 0.0 for t in numbered}
        results[run] = grade_all(numbered, seconds=seconds, seed=seed, score=score)
    return results


def trajectory_of(prompt: str, response: str, question: Question) -> Trajectory:
    """A plain-text response as a trajectory, whichever way it writes its searches."""
    for dialect in (MARKERS, MESSAGES):
        if dialect.mark.search(response):
            return _in_dialect(prompt, response, question, dialect)
    return _reclaimed(Trajectory.from_text(prompt, response, question))


def _reclaimed(trajectory: Trajectory) -> Trajectory:
    """With what a forged closing tag split off put back: text up to a closing tag that nothing opened is documents."""
    turns = list(trajectory.turns)
    for number in range(1, len(turns)):
        before, text = turns[number - 1], turns[number].text
        close = text.rfind(INFORMATION_CLOSE)
        if not before.observation or close < 0 or INFORMATION_OPEN in text[:close]:
            continue
        end = close + len(INFORMATION_CLOSE)
        own = text[end:].lstrip()
        opened = trajectory.think_prefill and own.startswith(THINK_OPEN)
        own = own.removeprefix(THINK_OPEN) if opened else own
        turns[number - 1] = replace(before, observation=before.observation + text.removesuffix(own))
        thinking, action = read_turn(own, think_open=opened)
        turns[number] = replace(turns[number], text=own, thinking=thinking, action=action)
    if turns == list(trajectory.turns):
        return trajectory
    if len(turns) > 1 and not turns[-1].text and not turns[-1].observation:
        turns.pop()
    return replace(trajectory, turns=tuple(turns), stop_reason=reason_after(turns[-1]))


def _in_dialect(prompt: str, response: str, question: Question, dialect: _Dialect) -> Trajectory:
    turns: list[Turn] = []
    start = 0
    for match in dialect.observation.finditer(response):
        turns.append(_turn(response[start : match.start()], match[0], dialect))
        start = match.end()
    rest = without_end_markers(response[start:])
    if rest or not turns:
        turns.append(_turn(rest, "", dialect))
    return Trajectory(
        question=question,
        prompt=prompt,
        turns=tuple(turns),
        stop_reason=reason_after(turns[-1]),
        think_prefill=False,
    )


def _turn(text: str, observation: str, dialect: _Dialect) -> Turn:
    thinking, action = read_turn(text, think_open=False)
    query = dialect.query.search(text)
    if query is not None:
        content = next((group for group in query.groups() if group is not None), "")
        action = Action(ActionKind.SEARCH, content.strip())
    elif action.kind is ActionKind.SEARCH:  # in tags that this system does not use
        action = Action(ActionKind.INVALID)
    return Turn(text=text, thinking=thinking, action=action, observation=observation)


def _trace(row: Any, *, where: str, number: int, known: dict[tuple[str, str], Question]) -> Trace:
    if not isinstance(row, Mapping) or not isinstance(row.get("response"), str):
        raise DataError(f'{where}: a trace needs "response" with the text of the rollout; got {row!r:.80}')
    question = _question(row, where=where, number=number, known=known)
    prompt, run = row.get("prompt") or "", row.get("run") or ""
    if not isinstance(prompt, str) or not isinstance(run, str):
        raise DataError(f"{where}: prompt and run must be text")
    return Trace(run=run, trajectory=trajectory_of(prompt, row["response"], question))


def _question(row: Mapping[str, Any], *, where: str, number: int, known: dict[tuple[str, str], Question]) -> Question:
    """The trace's question; later traces of it need not repeat its text and answers."""
    dataset = str(row.get("dataset") or row.get("data_source") or "")
    name = row.get("id") if row.get("id") is not None else row.get("question_id")
    text, answers = row.get("question"), row.get("golden_answers")
    id_ = str(name) if name is not None else f"{text}" if text else f"line {number}"
    if text is None and answers is None and (dataset, id_) in known:
        return known[dataset, id_]
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
        raise DataError(f"{where}: golden_answers must be a list of at least one text, got {answers!r:.80}")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: question must be text, got {text!r:.80}")
    question = Question(id=id_, text=text or "", golden_answers=tuple(answers), dataset=dataset)
    return known.setdefault((dataset, id_), question) if known.get((dataset, id_)) in (None, question) else question


def _numbered(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """With a rollout index that tells the samples of a question apart."""
    keys = [(t.question.dataset, t.question.id, t.rollout_index) for t in trajectories]
    if len(set(keys)) == len(keys):
        return list(trajectories)
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for trajectory in trajectories:
        key = (trajectory.question.dataset, trajectory.question.id)
        numbered.append(replace(trajectory, rollout_index=seen[key]))
        seen[key] += 1
    return numbered


def _order_of_datasets(trajectories: Sequence[Trajectory]) -> Any:
    order = {name: place for place, name in enumerate(dict.fromkeys(t.question.dataset for t in trajectories))}
    return lambda trajectory: order[trajectory.question.dataset]


def _has_header(path: Path) -> bool:
    for _, row in _rows(path):
        return isinstance(row, Mapping) and row.get("format") == FORMAT
    raise DataError(f"{path}: empty")


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"{path}: traces are kept in .jsonl, .jsonl.gz or .parquet files")
    yield from read_json_lines(path)
