"""Answers of search providers on disk."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import DataError
from calibadv.retrieval.web import PageCache
from calibadv.retrieval.web.providers import Found


def test_old_answers_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = PageCache(tmp_path / "web.sqlite", max_age_days=2)
    cache.put("digest", [Found("https://x", "T", "S")])
    assert cache.get("digest") == [Found("https://x", "T", "S")]
    now = time.time()
    monkeypatch.setattr("calibadv.retrieval.web.cache.time.time", lambda: now + 3 * 86_400)
    assert cache.get("digest") is None
    cache.close()


def test_another_file_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, keep them " * 10)
    with pytest.raises(DataError, match="not a cache of search results"):
        PageCache(text)
    assert text.read_text().startswith("these are my notes")
    other = tmp_path / "other.sqlite"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(DataError, match="something else"):
        PageCache(other)


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "web.sqlite"):
        with pytest.raises(DataError, match="cannot be opened as a cache"):
            PageCache(path)


@pytest.mark.parametrize("content", ["[[1", "[[1]]", "7", '[["u", "t"]]', '["utt"]'])
def test_a_damaged_page_is_an_error_and_no_result(tmp_path: Path, content: Any) -> None:
    cache = PageCache(tmp_path / "web.sqlite")
    cache.put("digest", [])
    database = sqlite3.connect(tmp_path / "web.sqlite")
    database.execute("UPDATE pages SET found = ?", (content,))
    database.commit()
    database.close()
    with pytest.raises(DataError, match="the cache is damaged"):
        cache.get("digest")
    cache.close()


def test_a_cache_may_be_made_by_two_at_once(tmp_path: Path) -> None:
    def use(number: Any) -> None:
        cache = PageCache(tmp_path / "web.sqlite")
        cache.put(str(number), [])
        cache.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(32)))
    cache = PageCache(tmp_path / "web.sqlite")
    assert [cache.get(str(number)) for number in range(32)] == [[]] * 32
    cache.close()
