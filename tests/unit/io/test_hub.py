"""The hub that cannot be reached: an error in time, with a remedy."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibadv.errors import DataError
from calibadv.io.hub import HubUnreachable, fetch_file, fetch_folder, is_reachable, list_files

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A hub that nobody answers for, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub's client began to retry"))
    return "http://127.0.0.1:9"


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def cached(cache: Path, *, kind: str = "datasets") -> Path:
    folder = cache / f"{kind}--some--thing"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    file = folder / "snapshots" / COMMIT / "a.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("{}\n")
    return file


def test_an_address_that_accepts_connections_is_reachable(
    monkeypatch: pytest.MonkeyPatch, listening: str, dead: str
) -> None:
    assert is_reachable(listening)
    assert not is_reachable(dead)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not is_reachable(listening)


def test_a_proxy_is_asked_instead(monkeypatch: pytest.MonkeyPatch, listening: str, dead: str) -> None:
    monkeypatch.setenv("http_proxy", listening)
    monkeypatch.setenv("no_proxy", "localhost")
    assert is_reachable("http://no-such-hub.invalid")
    monkeypatch.setenv("http_proxy", dead)
    assert not is_reachable("http://no-such-hub.invalid")


def test_a_dead_hub_is_one_line_with_the_remedy_and_no_retries(dead: str) -> None:
    for ask in (
        lambda: list_files("some/thing", kind="dataset", endpoint=dead),
        lambda: fetch_file("some/thing", "a.jsonl", kind="dataset", endpoint=dead),
        lambda: fetch_folder("some/thing", kind="model"),
    ):
        with pytest.raises(HubUnreachable, match=r"some/thing: .* at http://127.0.0.1:9 is unreachable .*HF_ENDPOINT"):
            ask()


def test_what_is_cached_needs_no_hub(dead: str, tmp_path: Path) -> None:
    file = cached(tmp_path / "cache")
    assert fetch_folder("some/thing", kind="dataset") == file.parent
    assert fetch_file("some/thing", "a.jsonl", kind="dataset") == file
    assert fetch_file("some/thing", "a.jsonl", kind="dataset", revision=COMMIT) == file


def test_a_hub_that_is_switched_off_is_said(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        list_files("some/thing", kind="dataset")
