"""Rows of .jsonl and .jsonl.gz files, one line in memory at a time."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from calibadv.errors import DataError
from calibadv.retrieval.corpus.row_errors import Flaw

MAX_BYTES = 16 << 20
"""Longer lines (and text files) are no documents; reading them whole could take any amount of memory."""
LINES_PER_REPORT = 1024


def read_json_lines(path: Path, *, at: Callable[[int], None]) -> Iterator[tuple[int, Any]]:
    """Line number from 1, and the parsed line or its `Flaw`; blank lines are passed over.

    ``at`` is told now and then how many bytes of the file were read. What lies behind a broken place of a gzip file
    is lost, so that is a DataError, never a flaw.
    """
    line = 0
    with path.open("rb") as raw:
        file = io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw))) if path.suffix == ".gz" else raw
        try:
            while content := file.readline(MAX_BYTES + 1):
                line += 1
                if len(content) > MAX_BYTES:
                    _skip_line(file, content)
                    yield line, Flaw("broken", f"longer than {MAX_BYTES >> 20} MiB; split it into several documents")
                elif content.strip():
                    yield line, _parsed(content, first=line == 1)
                if line % LINES_PER_REPORT == 0:
                    at(raw.tell())
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}:{line + 1}: broken gzip file ({error}); the rest cannot be read: fetch it again"
            ) from error
        at(raw.tell())


def _parsed(content: bytes, *, first: bool) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return Flaw("not_utf8", f"not UTF-8 ({error.reason}); convert the file")
    except json.JSONDecodeError as error:
        return Flaw("broken", f"not JSON ({error.msg}); one object a line is needed")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
        return Flaw("broken", f"not usable JSON ({error}); one object a line is needed")


def _skip_line(file: IO[bytes], content: bytes) -> None:
    while content and not content.endswith(b"\n"):
        content = file.readline(MAX_BYTES)
