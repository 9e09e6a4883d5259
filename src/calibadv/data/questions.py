"""QA data sets to `Question`: FlashRAG-style rows in JSON lines (plain or gzipped) or parquet.

A row is ``{"id", "question", "golden_answers": [...], "metadata": {...}}``. Parquet files for training (those of
``calibadv data prepare``, of Search-R1, of verl) are read too: there ``data_source`` names each row's data set,
metadata may be a JSON text, and answers and question may stand in ``reward_model`` and ``extra_info`` only. Every
message names the file and the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import read_json_lines
from calibadv.io.packages import require_packages
from calibadv.trajectory import Question

VERL_PREFIX = "searchR1_"
"""verl's scorer knows the data sets by names that begin so; it is not part of the name."""
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_SPLITS = frozenset({"train", "test", "dev", "validation"})


def load_questions(
    path: str | Path,
    *,
    limit: int | None = None,
    dataset: str | None = None,
    on_bad: Callable[[str], None] | None = None,
) -> list[Question]:
    """Read the first ``limit`` questions (all by default) of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.

    ``dataset`` names their data set, whatever the file and its name say. ``on_bad`` is told about rows that cannot be
    used, which are then left out; without it the first one raises DataError.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ConfigError(f"questions limit must be >= 1 (or absent for all), got {limit}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a .jsonl, .jsonl.gz or .parquet file of questions")
    questions: list[Question] = []
    bad: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for line, row in _rows(path):
        try:
            question = _question(row, where=f"{path}:{line}", dataset=dataset, file_dataset=dataset_name(path))
            if (question.dataset, question.id) in seen:
                raise DataError(
                    f"{path}:{line}: id {question.id!r} was already used in line "
                    f"{seen[question.dataset, question.id]}; ids must be unique"
                )
        except DataError as error:
            if on_bad is None:
                raise
            bad.append(str(error))
            on_bad(bad[-1])
            continue
        seen[question.dataset, question.id] = line
        questions.append(question)
        if limit is not None and len(questions) == limit:
            break
    if bad and not questions:
        raise DataError(f"{path}: none of its {len(bad)} rows can be used; the first: {bad[0]}")
    if not questions:
        raise DataError(f"{path}: no questions in this file")
    return questions


def check_questions(questions: Sequence[Question]) -> None:
    """Raise DataError when questions cannot be trained on or scored.

    That is: none at all, an empty text, no golden answers, an id used twice. `load_questions` has checked all of this
    already; this is for questions made in code.
    """
    if not questions:
        raise DataError("no questions: give at least one")
    seen: set[tuple[str, str]] = set()
    for number, question in enumerate(questions):
        where = f"question {number} (id {question.id!r})"
        if not question.text.strip():
            raise DataError(f"{where}: the question is empty")
        if not question.golden_answers:
            raise DataError(f"{where}: no golden answers; at least one is needed for scoring")
        if not all(isinstance(answer, str) for answer in question.golden_answers):
            raise DataError(f"{where}: golden answers must be text, got {question.golden_answers!r}")
        if (question.dataset, question.id) in seen:
            raise DataError(f"{where}: another question of data set {question.dataset!r} has the same id")
        seen.add((question.dataset, question.id))


def dataset_name(path: Path) -> str:
    """The data set a file belongs to: ``nq.test.jsonl.gz`` and ``nq/test.parquet`` are both ``nq``.

    >>> dataset_name(Path("data/hotpotqa.train.jsonl")), dataset_name(Path("data/nq/test.parquet"))
    ('hotpotqa', 'nq')
    """
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    if stem in _SPLITS:
        return path.absolute().parent.name
    head, _, tail = stem.rpartition(".")
    return head if head and tail in _SPLITS else stem


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line (or parquet row) number from 1, and the row."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from read_json_lines(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise DataError(f"{path}: unknown kind of file; use .jsonl, .jsonl.gz or .parquet")


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    require_packages("pyarrow", extra="retrieval", what=f"{path}: reading parquet")
    from pyarrow import ArrowInvalid, parquet

    try:
        file = parquet.ParquetFile(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    with file:
        number = 0
        try:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (ArrowInvalid, OSError) as error:
            raise DataError(f"{path}:{number + 1}: cannot be read ({error})") from error


def _question(row: Any, *, where: str, dataset: str | None, file_dataset: str) -> Question:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row must be an object with id, question and golden_answers, got {row!r:.80}")
    training = _from_training_columns(row)
    fields = {**row, **{name: value for name, value in training.items() if row.get(name) is None}}
    missing = [name for name in ("id", "question", "golden_answers") if name not in fields]
    if missing:
        raise DataError(f"{where}: no {', '.join(missing)} in this row; it has {', '.join(map(str, row)) or 'nothing'}")
    id_, text, answers = fields["id"], fields["question"], fields["golden_answers"]
    if isinstance(id_, bool) or not isinstance(id_, str | int) or id_ == "":
        raise DataError(f"{where}: id must be text or a whole number, got {id_!r}")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: question must be text that is not empty, got {text!r}")
    golden_answers = _answers(answers, where=where)
    for name, value in (("id", str(id_)), ("question", text), ("golden_answers", "".join(golden_answers))):
        if _HALF_A_CHARACTER.search(value):
            raise DataError(f"{where}: {name} holds half of a surrogate pair, which is no character: {value!r:.80}")
    return Question(
        id=str(id_),
        text=text.strip(),
        golden_answers=golden_answers,
        dataset=dataset if dataset is not None else _dataset(row, where=where, default=file_dataset),
        metadata=_metadata(row.get("metadata"), where=where),
    )


def _answers(answers: Any, *, where: str) -> tuple[str, ...]:
    if isinstance(answers, str):
        answers = _listed(answers)
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{where}: golden_answers must hold at least one answer, got {answers!r}")
    for answer in answers:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{where}: golden answers must be text that is not empty, got {answer!r}")
    return tuple(answers)


def _listed(text: str) -> list[str]:
    """A single answer; or several, where a table without lists holds them as JSON text."""
    if text.lstrip().startswith('["'):
        try:
            answers = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(answers, list) and all(isinstance(answer, str) for answer in answers):
            return answers
    return [text]


def _metadata(metadata: Any, *, where: str) -> dict[str, Any]:
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata) if metadata else None
        except ValueError as error:
            raise DataError(f"{where}: metadata is text but not JSON ({error})") from error
    if metadata is not None and not isinstance(metadata, Mapping):
        raise DataError(f"{where}: metadata must be an object, got {metadata!r:.80}")
    return dict(metadata or {})


def _dataset(row: Mapping[str, Any], *, where: str, default: str) -> str:
    source = row.get("data_source")
    if source is None:
        return default
    if not isinstance(source, str) or not source:
        raise DataError(f"{where}: data_source must be text that is not empty, got {source!r}")
    return source.removeprefix(VERL_PREFIX)


def _from_training_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the columns of Search-R1 and verl say, for rows that do not carry ours."""
    found: dict[str, Any] = {}
    model, extra = row.get("reward_model"), row.get("extra_info")
    if isinstance(model, Mapping) and isinstance(model.get("ground_truth"), Mapping):
        found["golden_answers"] = model["ground_truth"].get("target")
    if isinstance(extra, Mapping):
        if extra.get("index") is not None:
            found["id"] = f"{extra.get('split') or 'row'}_{extra['index']}"
        if extra.get("question") is not None:
            found["question"] = extra["question"]
    return found
