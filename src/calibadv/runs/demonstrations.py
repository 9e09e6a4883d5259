"""Collect demonstrations for a run: by script, from recorded traces, from stored files; without test questions."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from calibadv.config import RunConfig
from calibadv.data.config import load_split
from calibadv.data.questions import load_questions
from calibadv.data.trajectory_files import Record, read_trajectories, write_trajectories
from calibadv.errors import DataError
from calibadv.io.files import write_json
from calibadv.retrieval.base import Retriever
from calibadv.rewards.answer_scores import normalize_answer
from calibadv.rewards.format import is_well_formed
from calibadv.training.sft.demonstrate import Demonstration, demonstrate, play_together
from calibadv.training.sft.plans import make_plan
from calibadv.training.sft.recorded import read_rows, read_trace
from calibadv.trajectory import Question, Trajectory

logger = logging.getLogger(__name__)

DATA = "demonstrations"
REPORT = "report.json"
SOURCES = ("programmatic", "traces", "stored")


@dataclass(slots=True)
class Collection:
    """Demonstrations by where they come from, and what was left out and why."""

    by_source: dict[str, list[Trajectory]] = field(default_factory=lambda: {source: [] for source in SOURCES})
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    test_questions: int = 0

    @property
    def all(self) -> list[Trajectory]:
        """Every demonstration."""
        return [trajectory for trajectories in self.by_source.values() for trajectory in trajectories]

    def add(self, source: str, result: Trajectory | str) -> None:
        """Keep a well-formed demonstration, or count why there is none."""
        if isinstance(result, Trajectory) and not is_well_formed(result):
            result = "not well formed"
        if isinstance(result, str):
            self.left_out[source][result] += 1
        else:
            self.by_source[source].append(result)

    def keep(self, limit: int, *, rng: Random) -> None:
        """A draw of ``limit`` demonstrations, whatever their source."""
        places = [(source, n) for source, held in self.by_source.items() for n in range(len(held))]
        kept = set(places if len(places) <= limit else rng.sample(places, limit))
        for source, held in self.by_source.items():
            chosen = [t for n, t in enumerate(held) if (source, n) in kept]
            if len(chosen) < len(held):
                self.left_out[source]["over sft.limit"] += len(held) - len(chosen)
            self.by_source[source] = chosen

    def report(self) -> dict[str, Any]:
        """Counts, as plain values; of a source by data set."""
        counts = {
            source: dict(sorted(Counter(t.question.dataset for t in held).items()))
            for source, held in self.by_source.items()
        }
        return counts | {
            "demonstrations": len(self.all),
            "searches": dict(sorted(Counter(len(t.search_turns) for t in self.all).items())),
            "left_out": {source: dict(counts.most_common()) for source, counts in self.left_out.items()},
            "test_questions_left_out": self.test_questions,
        }


def collect(config: RunConfig, *, retriever: Retriever) -> Collection:
    """Make all demonstrations that [sft] asks for."""
    settings = config.sft
    collection = Collection()
    is_test = test_question_filter(config)
    asked = demonstrated_questions(config)
    questions = [question for question in asked if not is_test(question)]
    collection.test_questions = len(asked) - len(questions)
    if settings.programmatic != 0:
        add_programmatic(config, questions, retriever=retriever, collection=collection)
    for path in settings.traces:
        add_traces(config, path, questions, collection=collection)
    for path in settings.trajectories:
        for record in read_trajectories(path):
            stored = record.trajectory
            collection.add("stored", "test question" if is_test(stored.question) else stored)
    if not collection.all:
        raise DataError(
            "there are no demonstrations: no question has a plan that the retriever can follow, and sft.traces and "
            f"sft.trajectories gave none (left out: {collection.report()['left_out']})"
        )
    if settings.limit is not None:
        collection.keep(settings.limit, rng=Random(f"sft-limit-{settings.seed}"))
    return collection


def demonstrated_questions(config: RunConfig) -> list[Question]:
    """The questions of sft.questions, or of data.train."""
    if not config.sft.questions:
        return load_split(config.data, "train", limit=config.data.limit)
    return [question for path in config.sft.questions for question in load_questions(path)]


def test_question_filter(config: RunConfig) -> Callable[[Question], bool]:
    """Tells whether a question is one of data.test, by id or by normalised text."""
    if not config.data.test:
        logger.warning("data.test is empty: nothing keeps test questions out of the demonstrations")
        return lambda question: False
    test = load_split(config.data, "test")
    ids, texts = {(q.dataset, q.id) for q in test}, {normalize_answer(q.text) for q in test}
    return lambda question: (question.dataset, question.id) in ids or normalize_answer(question.text) in texts


def add_programmatic(
    config: RunConfig, questions: Sequence[Question], *, retriever: Retriever, collection: Collection
) -> None:
    """Demonstrations by script, for all questions with a plan or a seeded draw of them."""
    settings, playing = config.sft, list[Demonstration]()
    order = Random(f"sft-{settings.seed}").sample(list(questions), len(questions))
    for question in order:
        plan = make_plan(question)
        if plan is None:
            collection.add("programmatic", "no plan in the question's row")
            continue
        rng = Random(f"{settings.seed}/{question.dataset}/{question.id}")
        playing.append(demonstrate(question, plan, rng=rng, max_searches=config.rollout.max_searches))
        # Some plans fail; a few times the wanted number is plenty, and the retriever is not asked for the rest.
        if settings.programmatic is not None and len(playing) >= 4 * settings.programmatic:
            break
    for result in play_together(playing, retriever=retriever, top_k=config.rollout.top_k):
        collection.add("programmatic", result)
    if settings.programmatic is not None:
        del collection.by_source["programmatic"][settings.programmatic :]


def add_traces(config: RunConfig, path: Path, questions: Sequence[Question], *, collection: Collection) -> None:
    """Recorded rollouts of these questions, a few different ones each."""
    settings = config.sft
    by_id = {(question.dataset, question.id): question for question in questions}
    taken: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line, row in read_rows(path):
        key = (str(row["dataset"]), str(row["id"]))
        if key not in by_id:
            collection.add("traces", "not one of the questions")
            continue
        rng = Random(f"{settings.seed}/{key}/{line}")
        result = read_trace(row, by_id[key], rng=rng, max_searches=config.rollout.max_searches)
        if isinstance(result, Trajectory) and is_well_formed(result):
            signature = "\n".join(result.queries)
            if signature in taken[key] or len(taken[key]) >= settings.traces_per_question:
                result = "enough of this question"
            taken[key].add(signature)
        collection.add("traces", result)


def write_collection(collection: Collection, folder: Path) -> dict[str, Any]:
    """Write the demonstrations and report.json; the report comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, trajectories in collection.by_source.items():
        if trajectories:
            write_trajectories(folder / f"{name}.jsonl.gz", (Record(trajectory=t) for t in trajectories))
    report = collection.report()
    write_json(folder / REPORT, report, indent=1)
    return report


def read_collection(folder: Path) -> list[Trajectory]:
    """The demonstrations that `write_collection` wrote."""
    if not (folder / REPORT).is_file():
        raise DataError(f"{folder}: no {REPORT}, so the demonstrations were never finished; start in a new folder")
    paths = sorted(folder.glob("*.jsonl.gz"))
    return [record.trajectory for path in paths for record in read_trajectories(path, strict=True)]


def report_text(report: dict[str, Any]) -> str:
    """What `write_collection` reports, as lines for a terminal."""
    lines = []
    for source in SOURCES:
        counts = report[source]
        if counts:
            parts = ", ".join(f"{number} {name}" for name, number in counts.items())
            lines.append(f"{source:<13} {sum(counts.values()):>6}   {parts}")
        lines += [f"  left out    {n:>6}   {reason}" for reason, n in report["left_out"].get(source, {}).items()]
    searches = ", ".join(f"{number} with {count}" for count, number in report["searches"].items())
    lines.append(f"{report['demonstrations']} demonstrations; searches: {searches}")
    if report["test_questions_left_out"]:
        lines.append(f"{report['test_questions_left_out']} test questions were left out")
    return "\n".join(lines)
