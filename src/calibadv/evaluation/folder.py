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

import hashlib
import importlib.metadata
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibadv.data.trajectory_files import Record, write_trajectories
from calibadv.errors import ConfigError, DataError
from calibadv.evaluation.evaluate import EvalResult
from calibadv.evaluation.statistics import Estimate, Summary
from calibadv.evaluation.tables import Table, summary_table
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
_PACKAGES = ("calibadv", "numpy", "torch", "transformers", "vllm", "trl", "bm25s", "tantivy", "faiss-cpu")


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
    _write_json(path, manifest)
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
    _write_text(folder / QUESTIONS, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in question_lines(result)))
    _write_json(folder / MANIFEST, manifest)
    _write_json(folder / RESULTS, as_json(result))
    (folder / FINISHED).unlink(missing_ok=True)


def write_score(
    scored: Mapping[str, EvalResult], folder: Path, *, results: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write figures and question lines of scored traces, by run."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"run": run, **line} for run, result in scored.items() for line in question_lines(result)]
    _write_text(folder / QUESTIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    _write_json(folder / MANIFEST, manifest)
    _write_json(folder / RESULTS, results)


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
    """Header and rows: shares in percent with their 95 % interval, counts per rollout."""
    return summary_table(result.summaries)


def versions() -> dict[str, str]:
    """Python and the packages that can change a figure, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Digest of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def questions_sha256(questions: Sequence[Question]) -> str:
    """Digest of what is asked and of what counts as right, in order."""
    return text_sha256(json.dumps([[q.dataset, q.id, q.text, list(q.golden_answers)] for q in questions]))


def leaves(value: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values with dotted names.

    >>> list(leaves({"a": 1, "b": {"c": 2}}))
    [('a', 1), ('b.c', 2)]
    """
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from leaves(item, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object")
    return content


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "num_questions": summary.num_questions,
        "num_trajectories": summary.num_trajectories,
        "seconds": summary.seconds,
        "metrics": {name: asdict(estimate) for name, estimate in summary.estimates.items()},
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Complete or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
