"""What an evaluation leaves behind: results.json, questions.jsonl, trajectories.jsonl.gz, manifest.json."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError
from calibadv.evaluation.evaluate import EvalResult
from calibadv.evaluation.metrics import Estimate, Summary
from calibadv.storage import Record, write_trajectories
from calibadv.trajectory import Trajectory

RESULTS, QUESTIONS, MANIFEST = "results.json", "questions.jsonl", "manifest.json"
TRAJECTORIES, FINISHED = "trajectories.jsonl.gz", "finished.jsonl.gz"
COLUMNS = {
    "f1": "F1", "em": "EM", "cem": "CEM", "format_valid": "format", "garbled": "garbled", "searches": "searches",
    "turns": "turns", "tokens": "tokens",
}  # fmt: skip
_PERCENT = frozenset({"f1", "em", "cem", "format_valid", "garbled"})
_PACKAGES = ("calibadv", "numpy", "torch", "transformers", "trl", "bm25s")


def claim_folder(folder: Path) -> None:
    """Create the folder of an evaluation, which must not hold anything yet."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"the output folder {folder} is not empty; name another one with --out")
    folder.mkdir(parents=True, exist_ok=True)


def write_evaluation(result: EvalResult, folder: Path, *, manifest: Mapping[str, Any]) -> None:
    """Write everything about an evaluation into ``folder``."""
    write_trajectories(folder / TRAJECTORIES, [Record(trajectory=t) for t in result.trajectories])
    with (folder / QUESTIONS).open("w", encoding="utf-8") as file:
        for line in question_lines(result):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    _write_json(folder / MANIFEST, manifest)
    _write_json(folder / RESULTS, as_json(result))


def write_finished(trajectories: Sequence[Trajectory], folder: Path) -> Path:
    """Keep what was finished before the retriever went away."""
    write_trajectories(folder / FINISHED, [Record(trajectory=t) for t in trajectories])
    return folder / FINISHED


def as_json(result: EvalResult) -> dict[str, Any]:
    """The means as plain values: data set name -> counts and metrics."""
    return {summary.name: _summary(summary) for summary in result.summaries}


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


def table(result: EvalResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a terminal: shares in percent with their 95 % interval, counts per rollout."""
    header = ["data set", "questions", *COLUMNS.values(), "seconds"]
    rows = [
        [
            summary.name,
            str(summary.num_questions),
            *(_cell(name, summary.estimates[name]) for name in COLUMNS),
            f"{summary.seconds:.1f}",
        ]
        for summary in result.summaries
    ]
    return header, rows


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
    return hashlib.sha256(text.encode()).hexdigest()


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "num_questions": summary.num_questions,
        "num_trajectories": summary.num_trajectories,
        "seconds": summary.seconds,
        "metrics": {name: asdict(estimate) for name, estimate in summary.estimates.items()},
    }


def _cell(name: str, estimate: Estimate) -> str:
    if name in ("f1", "em", "cem"):
        return f"{100 * estimate.mean:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return f"{100 * estimate.mean:.1f}" if name in _PERCENT else f"{estimate.mean:.2f}"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
