"""Trajectories on disk: JSON lines (``.jsonl``, ``.jsonl.gz``) and parquet, both with a format version.

The first line of a JSON lines file is a header, every other line is one record; ``docs/trajectory-format.md`` describes
the fields. Floats keep their whole precision. A training run appends to a ``.jsonl`` file step by step; when it is
killed while writing, the last line may be torn: reading reports and skips it, appending removes it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import TornFile, json_line, new_file, new_lines, read_lines
from calibadv.io.packages import require_packages
from calibadv.trajectory import Action, ActionKind, Credit, Document, Question, StopReason, Trajectory, Turn

FORMAT = "calibadv.trajectories"
VERSION = 1
_ROWS_PER_GROUP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored trajectory and what is known about it."""

    trajectory: Trajectory
    credit: Credit | None = None
    """Reward and advantages, when they were computed."""
    step: int | None = None
    """The optimizer step it was trained in, from 1."""


def write_trajectories(path: str | Path, records: Iterable[Record], *, append: bool = False) -> int:
    """Write records and return how many; an existing file is replaced in one go, or extended with ``append``.

    The name's ending decides: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``. Only ``.jsonl`` can be extended; the lines of
    one call are on disk when it returns.
    """
    path = Path(path)
    kind = _kind(path)
    if append and kind != "jsonl":
        raise ConfigError(f"{path}: append needs a .jsonl file; write .jsonl and convert it when the run is over")
    path.parent.mkdir(parents=True, exist_ok=True)
    if append:
        return _append(path, records)
    return _write_parquet(path, records) if kind == "parquet" else _write_lines(path, records)


def read_trajectories(path: str | Path, *, strict: bool = False) -> Iterator[Record]:
    """Records in the order they were written.

    A last line that was torn by a crash is skipped with a warning, or raises DataError with ``strict``.
    """
    path = Path(path)
    kind = _kind(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of trajectories")
    return _read_parquet(path) if kind == "parquet" else _read_lines(path, strict=strict)


def _kind(path: Path) -> str:
    for ending, kind in ((".jsonl", "jsonl"), (".jsonl.gz", "gz"), (".parquet", "parquet")):
        if path.name.endswith(ending):
            return kind
    raise ConfigError(f"{path}: trajectories are kept in .jsonl, .jsonl.gz or .parquet files; rename it")


def _header() -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION}


def _write_lines(path: Path, records: Iterable[Record]) -> int:
    count = 0
    with new_lines(path) as file:
        file.write(json_line(_header()))
        for record in records:
            file.write(json_line(to_row(record)))
            count += 1
    return count


def _append(path: Path, records: Iterable[Record]) -> int:
    rows = [to_row(record) for record in records]
    with path.open("a+b") as file:
        _cut_torn_line(path, file)
        start = [json_line(_header())] if file.seek(0, os.SEEK_END) == 0 else []
        file.write(b"".join(start + [json_line(row) for row in rows]))
        file.flush()
        os.fsync(file.fileno())
    return len(rows)


def _cut_torn_line(path: Path, file: IO[bytes]) -> None:
    """Cut a torn last line off, so that what is appended starts on a line of its own."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    end, tail = size, b""
    while end > 0 and b"\n" not in tail:
        start = max(0, end - 65536)
        file.seek(start)
        tail = file.read(end - start) + tail
        end = start
    newline = tail.rfind(b"\n")
    torn = len(tail) - newline - 1
    if torn:
        _warn(f"{path}: the last line was torn by a crash; {torn} bytes were removed before appending")
        file.truncate(size - torn)
    if size > torn:
        file.seek(0)
        _check_header(path, file.readline())


def _read_lines(path: Path, *, strict: bool) -> Iterator[Record]:
    number = 0
    try:
        for number, line in read_lines(path):
            if not line.endswith(b"\n"):
                raise TornFile(f"{path}:{number}: the file ends in the middle of a record")
            if number == 1:
                _check_header(path, line)
            else:
                yield _record(line, where=f"{path}:{number}")
    except TornFile as error:
        if strict:
            raise DataError(f"{error}; read with strict=False to skip it") from error
        _warn(f"{error}; it was skipped")
    if number == 0:
        raise DataError(f"{path}: empty; a file of trajectories starts with a header line")


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{path}:1: no header; the first line of a file of trajectories is {json.dumps(_header())}")
    _check_version(path, header.get("version"))


def _check_version(path: Path, version: object) -> None:
    if version != VERSION:
        raise DataError(
            f"{path}: format version {version!r}, but this calibadv reads version {VERSION}; update calibadv"
        )


def _record(line: bytes, *, where: str) -> Record:
    try:
        return from_row(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not a trajectory record ({type(error).__name__}: {error})") from error


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def to_row(record: Record) -> dict[str, Any]:
    """A record as nested dictionaries and lists, the same for both kinds of file."""
    trajectory, question = record.trajectory, record.trajectory.question
    return {
        "step": record.step,
        "question": {
            "id": question.id,
            "text": question.text,
            "golden_answers": list(question.golden_answers),
            "dataset": question.dataset,
            "metadata": dict(question.metadata),
        },
        "rollout_index": trajectory.rollout_index,
        "prompt": trajectory.prompt,
        "prompt_token_ids": [int(i) for i in trajectory.prompt_token_ids],
        "turns": [_turn_row(turn) for turn in trajectory.turns],
        "stop_reason": str(trajectory.stop_reason),
        "error": trajectory.error,
        "think_prefill": trajectory.think_prefill,
        "credit": None if record.credit is None else _credit_row(record.credit),
    }


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "text": turn.text,
        "thinking": turn.thinking,
        "action": {"kind": str(turn.action.kind), "content": turn.action.content},
        "documents": [{"id": d.id, "title": d.title, "text": d.text} for d in turn.documents],
        "observation": turn.observation,
        "token_ids": [int(i) for i in turn.token_ids],
        "logprobs": [float(p) for p in turn.logprobs],
        "observation_token_ids": [int(i) for i in turn.observation_token_ids],
        "truncated": bool(turn.truncated),
    }


def _credit_row(credit: Credit) -> dict[str, Any]:
    return {
        "group_id": credit.group_id,
        "reward": float(credit.reward),
        "scores": {name: float(value) for name, value in credit.scores.items()},
        "format_valid": bool(credit.format_valid),
        "garbled": bool(credit.garbled),
        "correctness": None if credit.correctness is None else [float(c) for c in credit.correctness],
        "advantages": [float(a) for a in credit.advantages],
        "calibrated": [float(a) for a in credit.calibrated],
    }


def from_row(row: Mapping[str, Any]) -> Record:
    """The record that `to_row` made this from."""
    question = row["question"]
    trajectory = Trajectory(
        question=Question(
            id=question["id"],
            text=question["text"],
            golden_answers=tuple(question["golden_answers"]),
            dataset=question["dataset"],
            metadata=question["metadata"],
        ),
        rollout_index=row["rollout_index"],
        prompt=row["prompt"],
        prompt_token_ids=tuple(row["prompt_token_ids"]),
        turns=tuple(_turn(turn) for turn in row["turns"]),
        stop_reason=StopReason(row["stop_reason"]),
        error=row["error"],
        think_prefill=row["think_prefill"],
    )
    return Record(
        trajectory=trajectory, credit=None if row["credit"] is None else _credit(row["credit"]), step=row["step"]
    )


def _turn(row: Mapping[str, Any]) -> Turn:
    return Turn(
        text=row["text"],
        thinking=row["thinking"],
        action=Action(ActionKind(row["action"]["kind"]), row["action"]["content"]),
        documents=tuple(Document(id=d["id"], title=d["title"], text=d["text"]) for d in row["documents"]),
        observation=row["observation"],
        token_ids=tuple(row["token_ids"]),
        logprobs=tuple(float(p) for p in row["logprobs"]),
        observation_token_ids=tuple(row["observation_token_ids"]),
        truncated=row["truncated"],
    )


def _credit(row: Mapping[str, Any]) -> Credit:
    return Credit(
        group_id=row["group_id"],
        reward=float(row["reward"]),
        scores={name: float(value) for name, value in dict(row["scores"]).items()},
        format_valid=row["format_valid"],
        garbled=row["garbled"],
        correctness=None if row["correctness"] is None else tuple(float(c) for c in row["correctness"]),
        advantages=tuple(float(a) for a in row["advantages"]),
        calibrated=tuple(float(a) for a in row["calibrated"]),
    )


def _pyarrow(path: Path) -> Any:
    require_packages("pyarrow", extra="retrieval", what=f"{path}: parquet")
    import pyarrow.parquet

    return pyarrow


def _schema(pa: Any) -> Any:
    def struct(**fields: Any) -> Any:
        return pa.struct(list(fields.items()))

    text, floats, ids = pa.string(), pa.list_(pa.float64()), pa.list_(pa.int64())
    turn = struct(
        text=text,
        thinking=text,
        action=struct(kind=text, content=text),
        documents=pa.list_(struct(id=text, title=text, text=text)),
        observation=text,
        token_ids=ids,
        logprobs=floats,
        observation_token_ids=ids,
        truncated=pa.bool_(),
    )
    credit = struct(
        group_id=text,
        reward=pa.float64(),
        scores=pa.map_(text, pa.float64()),
        format_valid=pa.bool_(),
        garbled=pa.bool_(),
        correctness=floats,
        advantages=floats,
        calibrated=floats,
    )
    # Metadata differs from data set to data set, so it is one JSON text.
    question = struct(id=text, text=text, golden_answers=pa.list_(text), dataset=text, metadata=text)
    columns = struct(
        step=pa.int64(),
        question=question,
        rollout_index=pa.int64(),
        prompt=text,
        prompt_token_ids=ids,
        turns=pa.list_(turn),
        stop_reason=text,
        error=text,
        think_prefill=pa.bool_(),
        credit=credit,
    )
    return pa.schema(list(columns), metadata={"format": FORMAT, "version": str(VERSION)})


def _write_parquet(path: Path, records: Iterable[Record]) -> int:
    pa = _pyarrow(path)
    schema = _schema(pa)
    count = 0
    iterator = iter(records)
    with new_file(path) as partial, pa.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        while batch := [_parquet_row(record) for record in islice(iterator, _ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _parquet_row(record: Record) -> dict[str, Any]:
    row = to_row(record)
    row["question"]["metadata"] = json_line(row["question"]["metadata"]).decode()
    if row["credit"] is not None:
        row["credit"]["scores"] = list(row["credit"]["scores"].items())
    return row


def _read_parquet(path: Path) -> Iterator[Record]:
    pa = _pyarrow(path)
    try:
        file = pa.parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    with file:
        metadata = file.schema_arrow.metadata or {}
        if metadata.get(b"format") != FORMAT.encode():
            raise DataError(f"{path}: the parquet file holds no trajectories (no {FORMAT} in its metadata)")
        version = metadata.get(b"version", b"").decode()
        _check_version(path, int(version) if version.isdecimal() else version)
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
            for row in batch.to_pylist():
                row["question"]["metadata"] = json.loads(row["question"]["metadata"])
                yield from_row(row)
