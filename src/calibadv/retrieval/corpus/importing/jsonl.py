"""Rows of .jsonl and .jsonl.gz files, one line in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calibadv.io.files import read_lines
from calibadv.retrieval.corpus.row_errors import RowError

MAX_BYTES = 16 << 20
"""Longer lines (and text files) are no documents; reading them whole could take any amount of memory."""


def read_rows(path: Path, *, at: Callable[[int], None] | None = None) -> Iterator[tuple[int, Any]]:
    """Line number from 1, and the parsed line or its `RowError`; blank lines are skipped.

    ``at`` is told now and then how many bytes of the file were read. What lies behind a broken place of a gzip file
    is lost, so that is a DataError, never a `RowError`.
    """
    for number, line in read_lines(path, longest=MAX_BYTES, at=at):
        if len(line) > MAX_BYTES:
            yield number, RowError("broken", f"longer than {MAX_BYTES >> 20} MiB; split it into several documents")
        elif line.strip():
            yield number, _parsed(line, first=number == 1)


def _parsed(content: bytes, *, first: bool) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        return RowError("not_utf8", f"not UTF-8 ({error.reason}); convert the file")
    except json.JSONDecodeError as error:
        return RowError("broken", f"not JSON ({error.msg}); one object a line is needed")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
        return RowError("broken", f"not usable JSON ({error}); one object a line is needed")
