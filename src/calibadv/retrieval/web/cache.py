"""Answers of search providers on disk, in one SQLite file: what was paid for once is not asked again.

Only what was read from an answer is kept (addresses, titles, snippets), under a digest of the provider and the request:
neither a key nor a query is in the file. Failures are never kept.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from calibadv.errors import DataError
from calibadv.retrieval.web.providers import Found

_FORMAT = 1
_DAY_S = 86_400.0


class PageCache:
    """Result pages by digest. Safe for several threads, and for several processes on one machine."""

    def __init__(self, path: Path | str, *, max_age_days: float | None = None) -> None:
        self.path = Path(path)
        self._max_age_s = None if max_age_days is None else max_age_days * _DAY_S
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, check_same_thread=False, timeout=30.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: cannot be opened as a cache of search results ({error})") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise DataError(
                f"{path}: not a cache of search results ({error}); remove it or name another file"
            ) from None

    def _prepare(self) -> None:
        """Make the table of a new file, in one step: another process may be about to do the same."""
        if self._database.execute("PRAGMA user_version").fetchone() == (_FORMAT,):
            return
        self._database.execute("BEGIN IMMEDIATE")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == _FORMAT:  # the other process was faster
            self._database.execute("ROLLBACK")
            return
        if version != 0 or self._database.execute("SELECT name FROM sqlite_master").fetchall():
            raise sqlite3.DatabaseError("it holds something else")
        self._database.execute(
            "CREATE TABLE pages (digest TEXT PRIMARY KEY, stored REAL NOT NULL, found TEXT NOT NULL)"
        )
        self._database.execute(f"PRAGMA user_version = {_FORMAT}")
        self._database.execute("COMMIT")

    def get(self, digest: str) -> list[Found] | None:
        """The page, or None when it is not there or too old."""
        oldest = 0.0 if self._max_age_s is None else time.time() - self._max_age_s
        with self._lock:
            row = self._run("SELECT found FROM pages WHERE digest = ? AND stored >= ?", (digest, oldest)).fetchone()
        try:
            return None if row is None else [_found(item) for item in json.loads(row[0])]
        except (ValueError, TypeError):
            raise DataError(f"{self.path}: the cache is damaged; remove it or name another file") from None

    def put(self, digest: str, found: Sequence[Found]) -> None:
        """Keep a page, in place of an older one."""
        text = json.dumps(found)
        with self._lock:
            self._run("INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", (digest, time.time(), text))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _run(self, command: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(command, values)
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path}: the cache cannot be used ({error}); remove it or name another file"
            ) from None


def _found(item: object) -> Found:
    if not isinstance(item, list) or not all(isinstance(text, str) for text in item):
        raise TypeError
    return Found(*item)
