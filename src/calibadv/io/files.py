"""Files that are complete or not there, and JSON lines: one way to write and to read them.

A file is written under another name in its own folder and renamed when it is complete, so that a kill or a full disk
leaves the old content or none. Folders appear the same way.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from calibadv.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

LINES_PER_REPORT = 1024
T = TypeVar("T")


class TornFile(DataError):
    """A file that ends in the middle of a line, or of its gzip stream: its writer was killed, or is still writing."""


@contextmanager
def new_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path to write to that becomes ``path`` when the block ends well, and is removed when it does not.

    With ``sync`` the content is on the disk before the name is.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        if sync:
            sync_file(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes ``folder`` when the block ends well, and is removed when it does not.

    An existing ``folder`` must be empty, or it is replaced with ``replace``.
    """
    partial = start_folder(folder, alone=replace)
    try:
        yield partial
        old = folder.with_name(f".{folder.name}.old")
        if replace and folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        finish_folder(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def start_folder(folder: Path, *, alone: bool = False) -> Path:
    """An empty folder beside ``folder``, of this process; with ``alone`` no other process can be making it."""
    partial = folder.with_name(f".{folder.name}.partial" + ("" if alone else f"-{os.getpid()}"))
    for left in [] if alone else folder.parent.glob(f".{folder.name}.partial-*"):
        logger.warning("%s was left by a process that was killed (or one that is running); remove it if none is", left)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish_folder(partial: Path, folder: Path) -> None:
    """Give a folder that is complete its name."""
    try:
        partial.replace(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made of {partial} ({error.strerror}); if another process wrote it meanwhile, name "
            "another folder"
        ) from error


def try_lock(file: int) -> bool:
    """Lock an open file until it is closed or its process ends; False when another process holds it.

    On a file system without locks nobody is refused.
    """
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.debug("no lock (%s)", error)
    return True


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can tell."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def try_writing(folder: Path, *, num_bytes: int) -> None:
    """Write a file of that size into a folder and remove it again, with every folder that had to be made for it.

    Raises:
        OSError: It cannot be written.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    trial = folder / f".trial-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(bytes(num_bytes))
        sync_file(trial)
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)
            for path in missing:
                path.rmdir()


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a whole text; half a surrogate pair, which no file can hold, is written as its escape."""
    with new_file(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any, *, indent: int | None = 2, sync: bool = False) -> None:
    """Write one JSON value."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n", sync=sync)


def read_json(path: Path, *, remedy: str = "") -> dict[str, Any]:
    """A JSON object from a file; ``remedy`` ends the message about one that cannot be read."""
    hint = f"; {remedy}" if remedy else ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}){hint}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object{hint}")
    return content


def read_record(cls: type[T], record: object, *, problem: str, remedy: str) -> T:
    """A dataclass from plain JSON values, strictly: every field of its type, none missing and none too many.

    >>> from dataclasses import make_dataclass
    >>> Range = make_dataclass("Range", [("least", int), ("most", int)])
    >>> read_record(Range, {"least": 1, "most": "9"}, problem="a.json: not a range", remedy="write it again")
    Traceback (most recent call last):
    calibadv.errors.DataError: a.json: not a range (most: Input should be a valid integer); write it again
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_json(json.dumps(record), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{problem} ({field + ': ' if field else ''}{first['msg']}); {remedy}") from None


def json_line(value: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON, whatever text and numbers are in it (NaN and infinity become strings)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise DataError(f"a record must be plain JSON values ({error})") from error
    except ValueError:  # numbers that JSON does not know: nan, inf and -inf become strings
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair; JSON can only hold it escaped
        return json.dumps(json.loads(text), separators=(",", ":")).encode() + b"\n"


@contextmanager
def new_lines(path: Path) -> Iterator[IO[bytes]]:
    """A new file of lines, gzipped when its name ends in .gz; the same lines give the same bytes."""
    with new_file(path) as partial, partial.open("wb") as raw:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
                yield cast("IO[bytes]", packed)
        else:
            yield raw


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of records, one a line, gzipped when its name ends in .gz."""
    with new_lines(path) as file:
        file.writelines(json_line(row) for row in rows)


def read_lines(
    path: Path, *, longest: int | None = None, at: Callable[[int], None] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, line end included, of a plain or gzipped file (.gz).

    Of a line longer than ``longest`` bytes the first ``longest + 1`` are given. ``at`` is told now and then how many
    bytes of the file were read. A gzip file that ends early raises `TornFile`, any other failure DataError.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            file = io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw))) if path.suffix == ".gz" else raw
            while line := file.readline(-1 if longest is None else longest + 1):
                number += 1
                rest = line
                while longest is not None and len(rest) > longest and not rest.endswith(b"\n"):
                    rest = file.readline(longest + 1)
                yield number, line
                if at is not None and number % LINES_PER_REPORT == 0:
                    at(raw.tell())
            if at is not None:
                at(raw.tell())
    except EOFError as error:
        raise TornFile(
            f"{path}:{number + 1}: cannot be read, it ends in the middle (gzip); fetch or write it again"
        ) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error}); fetch or write it again") from error


def read_json_lines(path: Path, *, growing: bool = False) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and value of every line of a .jsonl or .jsonl.gz file; blank lines are skipped.

    A file that is ``growing``, or whose writer was killed, may end in half a line, which is left out.
    """
    lines = read_lines(path)
    while True:
        try:
            number, line = next(lines)
        except StopIteration:
            return
        except TornFile:
            if growing:
                return
            raise
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nesting beyond what Python takes
            if growing and not line.endswith(b"\n"):
                return
            raise DataError(f"{path}:{number}: not valid JSON ({error}); delete or repair the line") from error
        yield number, value


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add one line to a log; NaN and infinity, which no reader of JSON has to know, raise ValueError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")


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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
