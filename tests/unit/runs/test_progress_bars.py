"""The bar that commands show while they work."""

from __future__ import annotations

import sys

import pytest

from calibadv.runs.progress import progress_bar, progress_bars


def test_a_terminal_gets_a_bar_on_its_error_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for is_bytes in (True, False):
        with progress_bar("importing", is_bytes=is_bytes) as progress:
            assert progress is not None
            progress(1, 2)
            progress(2, 2)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "importing" in captured.err


def test_anything_else_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("importing") as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_work_of_several_parts_gets_a_bar_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bars() as progress:
        assert progress is not None
        for what in ("reading the corpus", "reading the files"):
            progress(what, 1, 2)
            progress(what, 2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading the corpus" in captured.err
    assert "reading the files" in captured.err
    monkeypatch.undo()
    with progress_bars() as progress:
        assert progress is None
