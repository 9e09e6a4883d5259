"""The hub as a source, against a local server with the hub's layout."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from calibadv.data.prepare import HUB_REPOSITORY, HUB_REVISION, HubSource, PrepareConfig, prepare
from calibadv.data.questions import load_questions
from calibadv.errors import DataError

constants = pytest.importorskip("huggingface_hub.constants")
pytest.importorskip("pyarrow")


class Hub:
    """Serves the files of one data set repository at one commit."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.downloads: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self, *, body: bool = True) -> None:
                path = unquote(urlsplit(self.path).path)
                api, resolve = f"/api/datasets/{HUB_REPOSITORY}", f"/datasets/{HUB_REPOSITORY}/resolve/{HUB_REVISION}/"
                if path.startswith(resolve) and path.removeprefix(resolve) in outer.files:
                    data = outer.files[path.removeprefix(resolve)]
                    if body:
                        outer.downloads.append(path.removeprefix(resolve))
                    headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": HUB_REVISION}
                    self.reply(200, data, body=body, **headers)
                if path == f"{api}/revision/{HUB_REVISION}":
                    siblings = [{"rfilename": p, "size": len(d)} for p, d in outer.files.items()]
                    info = {"id": HUB_REPOSITORY, "sha": HUB_REVISION, "siblings": siblings}
                    self.reply(200, json.dumps(info).encode(), body=body)
                code = "EntryNotFound" if path.startswith(resolve) else "RevisionNotFound"
                if HUB_REPOSITORY not in path:
                    code = "RepoNotFound"
                self.reply(404, b"{}", body=body, **{"X-Error-Code": code})

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def reply(self, status: int, data: bytes, *, body: bool, **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def lines(name: str, number: int) -> bytes:
    rows = ({"id": f"{name}_{i}", "question": f"{name} {i}?", "golden_answers": ["a"]} for i in range(number))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    running = Hub(
        {
            "README.md": b"hello",
            "bamboogle/test.jsonl": lines("bamboogle", 125),
            "musique/dev.jsonl": lines("musique", 2417),
            "musique/train.jsonl": lines("train", 50),
        }
    )
    yield running
    running.server.shutdown()
    running.server.server_close()


def options(**changes: Any) -> PrepareConfig:
    return PrepareConfig(**{"datasets": ("bamboogle", "musique"), "splits": ("test",)} | changes)


def test_the_hub_is_read_at_the_pinned_commit(fake: Hub, tmp_path: Path) -> None:
    (report,) = prepare(HubSource(endpoint=fake.url), out=tmp_path / "out", options=options())
    assert report.source == {"repository": HUB_REPOSITORY, "revision": HUB_REVISION}
    assert [(d.name, d.split_read, d.rows, d.published) for d in report.datasets] == [
        ("bamboogle", "test", 125, 125),
        ("musique", "dev", 2417, 2417),
    ]
    assert len(load_questions(tmp_path / "out" / "test.parquet")) == 2542
    prepare(HubSource(endpoint=fake.url), out=tmp_path / "again", options=options())
    assert fake.downloads == ["bamboogle/test.jsonl", "musique/dev.jsonl"], "a file is downloaded once"


def test_another_row_count_than_the_published_is_an_error(fake: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"musique \(train\) has 50 rows, published are 19,938.*--allow-count-mismatch"):
        prepare(
            HubSource(endpoint=fake.url),
            out=tmp_path / "out",
            options=options(datasets=("musique",), splits=("train",)),
        )
    changed = options(datasets=("musique",), splits=("train",), allow_count_mismatch=True)
    (report,) = prepare(HubSource(endpoint=fake.url), out=tmp_path / "out", options=changed)
    assert report.compared_with == ["musique (2,417)", "bamboogle (125)"] or report.compared_with == [
        "bamboogle (125)", "musique (2,417)"
    ]  # fmt: skip


def test_what_the_hub_does_not_have_is_said_with_what_it_has(fake: Hub, tmp_path: Path) -> None:
    source = HubSource(endpoint=fake.url)
    with pytest.raises(DataError, match="has no data set nq; its data sets are bamboogle, musique"):
        source.find("nq", "test")
    with pytest.raises(DataError, match="has no train split of bamboogle; it has test"):
        source.find("bamboogle", "train")
    with pytest.raises(DataError, match=r"the hub has no revision 0000 of it"):
        HubSource(endpoint=fake.url, revision="0000").find("nq", "test")
    with pytest.raises(DataError, match="the hub has no such repository"):
        HubSource(endpoint=fake.url, repository="a/b").find("nq", "test")


def test_a_hub_that_cannot_be_reached_is_one_clear_line(fake: Hub) -> None:
    with pytest.raises(DataError, match=r"is unreachable .*--source FOLDER"):
        HubSource(endpoint="http://127.0.0.1:9").find("nq", "test")
