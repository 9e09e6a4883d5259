"""An evaluation's folder: what is being evaluated (manifest.json), finished rollouts, and at the end the results.

========================  ==========================================================================================
manifest.json             what the figures depend on; written first, and compared when the evaluation is continued
finished.jsonl            rollouts as they finish (`calibadv.evaluation.journal`); gone when the results are there
trajectories.jsonl.gz     all rollouts in the order of the questions
questions.jsonl           one plain line a rollout: question, answer, queries, scores
results.json              means and intervals; written last, so a folder that has it is complete
========================  ==========================================================================================
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.evaluation.evaluate import EvalResult
from calibadv.evaluation.statistics import Estimate, Summary
from calibadv.evaluation.tables import Table, summary_table
from calibadv.io.files import leaves, read_json, write_json, write_json_lines
from calibadv.io.provenance import json_sha256
from calibadv.trajectory import Question

logger = logging.getLogger(__name__)

RESULTS, QUESTIONS, MANIFEST = "results.json", "questions.jsonl", "manifest.json"
TRAJECTORIES, FINISHED = "trajectories.jsonl.gz", "finished.jsonl"
MAY_CHANGE = (
    "config.", "versions.", "index.versions.", "index.index.versions.", "model.url", "prompt.chat_template",
    "questions.files.", "rollout.concurrency", "rollout.search_",
)  # fmt: skip
"""What a continued evaluation may do otherwise; anything else would make the figures those of two evaluations."""
WORTH_A_WARNING = ("versions.", "prompt.chat_template")
"""Some chat templates hold the date, so another day must not end an evaluation."""


def claim_folder(folder: Path, *, manifest: Mapping[str, Any]) -> bool:
    """Create the folder of an evaluation, or take up the same one again. True when its results are there already."""
    path = folder / MANIFEST
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; name a folder")
    if path.is_file():
        check_same(read_json(path), json.loads(json.dumps(manifest)), folder=folder)
        return (folder / RESULTS).is_file()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"the output folder {folder} is not empty; name another one with --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)
    return False


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], *, folder: Path) -> None:
    """Refuse to continue an evaluation with other settings; other versions of packages are worth a warning."""
    old, new = dict(leaves(before)), dict(leaves(now))
    for values in (old, new):
        if "model.sha256" in values:
            values.pop("model.name")  # the same weights may lie somewhere else by now
        for key in ("index.urls", "index.corpus", "index.index.corpus"):  # where it lies; what it is has a digest
            values.pop(key, None)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    strict = [key for key in changed if not key.startswith(MAY_CHANGE)]
    if strict:
        what = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in strict[:5])
        more = f" and {len(strict) - 5} more" if len(strict) > 5 else ""
        raise ConfigError(
            f"the evaluation in {folder} has other settings: {what}{more}. Continue it with its own settings, or name "
            "another folder with --out"
        )
    for key in changed:
        if key.startswith(WORTH_A_WARNING):
            logger.warning("%s: %s was %s when this evaluation began, is %s", folder, key, old.get(key), new.get(key))


def write_evaluation(result: EvalResult, folder: Path, *, manifest: Mapping[str, Any]) -> None:
    """Write everything about an evaluation into ``folder``; the results come last, then the journal may go."""
    write_trajectories(folder / TRAJECTORIES, [Record(trajectory=t) for t in result.trajectories])
    write_json_lines(folder / QUESTIONS, question_lines(result))
    write_json(folder / MANIFEST, manifest)
    write_json(folder / RESULTS, as_json(result))
    (folder / FINISHED).unlink(missing_ok=True)


def write_score(
    scored: Mapping[str, EvalResult], folder: Path, *, results: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write figures and question lines of scored traces, by run."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"run": run, **line} for run, result in scored.items() for line in question_lines(result)]
    write_json_lines(folder / QUESTIONS, lines)
    write_json(folder / MANIFEST, manifest)
    write_json(folder / RESULTS, results)


def as_json(result: EvalResult) -> dict[str, Any]:
    """The means as plain values: data set name -> counts and metrics."""
    return {summary.name: _summary(summary) for summary in result.summaries}


def read_results(folder: Path) -> list[Summary]:
    """The summaries of a complete evaluation."""
    try:
        return [
            Summary(
                name=name,
                num_questions=values["num_questions"],
                num_trajectories=values["num_trajectories"],
                seconds=values["seconds"],
                estimates={metric: Estimate(**estimate) for metric, estimate in values["metrics"].items()},
            )
            for name, values in read_json(folder / RESULTS).items()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / RESULTS}: not the results of an evaluation ({error})") from error


def question_lines(result: EvalResult) -> list[dict[str, Any]]:
    """One plain record per trajectory: what was asked, answered and scored."""
    return [
        {
            "dataset": grade.dataset,
            "id": grade.question_id,
            "sample": grade.sample,
            "question": trajectory.question.text,
            "golden_answers": list(trajectory.question.golden_answers),
            "answer": trajectory.answer,
            "queries": list(trajectory.queries),
            "stop_reason": trajectory.stop_reason.value,
            **grade.values,
        }
        for grade, trajectory in zip(result.grades, result.trajectories, strict=True)
    ]


def table(result: EvalResult) -> Table:
    """Header and rows: shares from 0 to 1 with their 95 % interval, counts per rollout."""
    return summary_table(result.summaries)


def questions_sha256(questions: Sequence[Question]) -> str:
    """Digest of what is asked and of what counts as right, in order."""
    return json_sha256([[q.dataset, q.id, q.text, list(q.golden_answers)] for q in questions])


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "num_questions": summary.num_questions,
        "num_trajectories": summary.num_trajectories,
        "seconds": summary.seconds,
        "metrics": {name: asdict(estimate) for name, estimate in summary.estimates.items()},
    }
