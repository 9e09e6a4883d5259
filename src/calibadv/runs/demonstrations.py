"""Collect demonstrations for a run: by script, from recorded traces, from stored files; without test questions."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from calibadv.config import RunConfig
from calibadv.data.config import load_split
from calibadv.data.questions import load_questions
from calibadv.data.trajectory_files import Record, read_trajectories, write_trajectories
from calibadv.errors import DataError
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

    programmatic: list[Trajectory] = field(default_factory=list)
    traces: list[Trajectory] = field(default_factory=list)
    stored: list[Trajectory] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    test_questions: int = 0

    @property
    def all(self) -> list[Trajectory]:
        """Every demonstration."""
        return [*self.programmatic, *self.traces, *self.stored]

    def keep(self, limit: int, *, rng: Random) -> None:
        """A draw of ``limit`` demonstrations, whatever their source."""
        places = [(source, n) for source in SOURCES for n in range(len(getattr(self, source)))]
        kept = set(places if len(places) <= limit else rng.sample(places, limit))
        for source in SOURCES:
            held = getattr(self, source)
            chosen = [t for n, t in enumerate(held) if (source, n) in kept]
            if len(chosen) < len(held):
                self.left_out[source]["over sft.limit"] += len(held) - len(chosen)
            setattr(self, source, chosen)

    def report(self) -> dict[str, Any]:
        """Counts, as plain values."""
        return {
            "programmatic": by_dataset(self.programmatic),
            "traces": by_dataset(self.traces),
            "stored": by_dataset(self.stored),
            "demonstrations": len(self.all),
            "searches": dict(sorted(Counter(len(t.search_turns) for t in self.all).items())),
            "left_out": {source: dict(counts.most_common()) for source, counts in self.left_out.items()},
            "test_questions_left_out": self.test_questions,
        }


def by_dataset(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """How many there are of each data set."""
    return dict(sorted(Counter(t.question.dataset for t in trajectories).items()))


def collect(config: RunConfig, *, retriever: Retriever) -> Collection:
    """Make all demonstrations that [sft] asks for."""
    settings = config.sft
    collection = Collection()
    questions = without_test(config, demonstrated_questions(config), collection)
    if settings.programmatic != 0:
        add_programmatic(config, questions, retriever=retriever, collection=collection)
    for path in settings.traces:
        add_traces(config, path, questions, collection=collection)
    for path in settings.trajectories:
        add_stored(path, questions_left_out=test_keys(config), collection=collection)
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


def test_keys(config: RunConfig) -> tuple[set[tuple[str, str]], set[str]]:
    """Ids and normalised texts of the test questions."""
    if not config.data.test:
        logger.warning("data.test is empty: nothing keeps test questions out of the demonstrations")
        return set(), set()
    test = load_split(config.data, "test")
    return {(q.dataset, q.id) for q in test}, {normalize_answer(q.text) for q in test}


def without_test(config: RunConfig, questions: Sequence[Question], collection: Collection) -> list[Question]:
    """Those that are no test questions, by id and by text."""
    ids, texts = test_keys(config)
    kept = [q for q in questions if (q.dataset, q.id) not in ids and normalize_answer(q.text) not in texts]
    collection.test_questions = len(questions) - len(kept)
    return kept


def add_programmatic(
    config: RunConfig, questions: Sequence[Question], *, retriever: Retriever, collection: Collection
) -> None:
    """Demonstrations by script, for all questions with a plan or a seeded draw of them."""
    settings, playing = config.sft, list[Demonstration]()
    order = Random(f"sft-{settings.seed}").sample(list(questions), len(questions))
    for question in order:
        plan = make_plan(question)
        if plan is None:
            collection.left_out["programmatic"]["no plan in the question's row"] += 1
            continue
        rng = Random(f"{settings.seed}/{question.dataset}/{question.id}")
        playing.append(demonstrate(question, plan, rng=rng, max_searches=config.rollout.max_searches))
        # Some plans fail; a few times the wanted number is plenty, and the retriever is not asked for the rest.
        if settings.programmatic is not None and len(playing) >= 4 * settings.programmatic:
            break
    for result in play_together(playing, retriever=retriever, top_k=config.rollout.top_k):
        if isinstance(result, str):
            collection.left_out["programmatic"][result] += 1
        elif not is_well_formed(result):
            collection.left_out["programmatic"]["not well formed"] += 1
        else:
            collection.programmatic.append(result)
    if settings.programmatic is not None:
        del collection.programmatic[settings.programmatic :]


def add_traces(config: RunConfig, path: Path, questions: Sequence[Question], *, collection: Collection) -> None:
    """Recorded rollouts of these questions, a few different ones each."""
    settings = config.sft
    by_id = {(question.dataset, question.id): question for question in questions}
    taken: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line, row in read_rows(path):
        key = (str(row["dataset"]), str(row["id"]))
        if key not in by_id:
            collection.left_out["traces"]["not one of the questions"] += 1
            continue
        rng = Random(f"{settings.seed}/{key}/{line}")
        result = read_trace(row, by_id[key], rng=rng, max_searches=config.rollout.max_searches)
        if isinstance(result, str):
            collection.left_out["traces"][result] += 1
            continue
        signature = "\n".join(result.queries)
        if signature in taken[key] or len(taken[key]) >= settings.traces_per_question:
            collection.left_out["traces"]["enough of this question"] += 1
            continue
        taken[key].add(signature)
        collection.traces.append(result)


def add_stored(
    path: Path, *, questions_left_out: tuple[set[tuple[str, str]], set[str]], collection: Collection
) -> None:
    """Well-formed stored trajectories that are no test questions."""
    ids, texts = questions_left_out
    for record in read_trajectories(path):
        question = record.trajectory.question
        if (question.dataset, question.id) in ids or normalize_answer(question.text) in texts:
            collection.left_out["stored"]["test question"] += 1
        elif not is_well_formed(record.trajectory):
            collection.left_out["stored"]["not well formed"] += 1
        else:
            collection.stored.append(record.trajectory)


def write_collection(collection: Collection, folder: Path) -> dict[str, Any]:
    """Write the demonstrations and report.json; the report comes back."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        trajectories = getattr(collection, name)
        if trajectories:
            write_trajectories(folder / f"{name}.jsonl.gz", (Record(trajectory=t) for t in trajectories))
    report = collection.report()
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
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
