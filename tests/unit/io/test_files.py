"""Files that are complete or not there, and JSON lines."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import (
    TornFile,
    json_line,
    new_file,
    new_folder,
    read_json,
    read_json_lines,
    read_lines,
    write_json,
    write_json_lines,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1}, sync=sync)

    def half() -> None:
        with new_file(path, sync=sync) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x\ud800y")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x\\ud800y"


def test_a_folder_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    def half() -> None:
        with new_folder(tmp_path / "model") as partial:
            (partial / "weights").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert names(tmp_path) == []


def test_a_folder_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path / "model", replace=True) as partial:
            (partial / content).write_text(content)
    assert names(tmp_path / "model") == ["new"]
    with pytest.raises(ConfigError, match="cannot be made"), new_folder(tmp_path / "model") as partial:
        (partial / "third").write_text("x")
    assert names(tmp_path / "model") == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_lines_come_back_with_their_numbers(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [{"a": 1}, {"b": "é", "c": [1.5]}]
    write_json_lines(tmp_path / name, rows)
    first = (tmp_path / name).read_bytes()
    assert list(read_json_lines(tmp_path / name)) == [(1, rows[0]), (2, rows[1])]
    write_json_lines(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == first, "the same lines give the same bytes"
    assert names(tmp_path) == [name]


def test_any_number_and_any_text_fits_in_a_line() -> None:
    line = json_line({"a": math.nan, "b": [math.inf, 1.0], "c": "\ud800"})
    assert json.loads(line) == {"a": "nan", "b": ["inf", 1.0], "c": "\ud800"}
    with pytest.raises(DataError, match="plain JSON values"):
        json_line({"a": object()})


@pytest.mark.parametrize("tail", [b'{"a": ', b'{"a": "\xc3', b"\xef"])
def test_half_a_last_line_is_left_out_of_a_growing_file_only(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + tail)
    assert list(read_json_lines(path, growing=True)) == [(1, {"a": 1})]
    with pytest.raises(DataError, match=r"log.jsonl:3: not valid JSON"):
        list(read_json_lines(path))


def test_a_broken_line_inside_a_growing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": \n{"a": 2}\n')
    with pytest.raises(DataError, match=r"log.jsonl:1: not valid JSON"):
        list(read_json_lines(tmp_path / "log.jsonl", growing=True))


def test_a_gzip_file_that_ends_early_is_torn_and_one_with_a_broken_block_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"a": %d}\n' % n for n in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TornFile, match="ends in the middle"):
        list(read_lines(path))
    assert len(list(read_json_lines(path, growing=True))) > 100
    path.write_bytes(whole[:20] + b"\0" * 200 + whole[220:])
    with pytest.raises(DataError, match=r"rows.jsonl.gz:\d+: cannot be read") as caught:
        list(read_lines(path))
    assert not isinstance(caught.value, TornFile)


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"x" * 100 + b"\nshort\n" + b"1234\n" + b"y" * 30)
    read: list[int] = []
    lines = list(read_lines(path, longest=5, at=read.append))
    assert lines == [(1, b"xxxxxx"), (2, b"short\n"), (3, b"1234\n"), (4, b"yyyyyy")]
    assert read == [path.stat().st_size]


def test_what_is_no_json_object_is_said_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DataError, match=r"list.json: must hold a JSON object; make it again"):
        read_json(tmp_path / "list.json", remedy="make it again")
    with pytest.raises(DataError, match=r"absent.json: cannot be read"):
        read_json(tmp_path / "absent.json")
