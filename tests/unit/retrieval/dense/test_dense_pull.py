"""Fetching published indexes, against a local server with the hub's layout."""

import functools
import gzip
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from calibadv.cli.main import main
from calibadv.errors import ConfigError, DataError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import Retry
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.pull import PullConfig
from calibadv.retrieval.dense.pull import pull as pull_index
from calibadv.retrieval.dense.retriever import DenseRetriever

constants = pytest.importorskip("huggingface_hub.constants")
pull = functools.partial(pull_index, retry=Retry(retries=4, clock=FakeClock()))
REVISION = "0123456789abcdef0123456789abcdef01234567"
CORPUS, FLAT, GRAPH = "PeterJinGo/wiki-18-corpus", "PeterJinGo/wiki-18-e5-index", "PeterJinGo/wiki-18-e5-index-HNSW64"


class Hub:
    """What the server has, what it was asked, and how it misbehaves."""

    def __init__(self) -> None:
        self.files: dict[Any, Any] = {}  # (repo, name) -> bytes
        self.requests: list[Any] = []
        self.break_after: list[Any] = []  # bytes of each coming file response, then the connection is cut
        self.statuses: list[Any] = []  # of each coming file request, instead of an answer
        self.damage = False
        self.ranges = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> Any:
        hub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        hub.requests.append((path, self.headers.get("Range")))
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            return self.answer_info(hub, match[1])
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            assert match[2] == REVISION
            return self.answer_file(hub, hub.files[match[1], match[3]])
        return self.answer(404, b"{}")

    def answer_info(self, hub: Any, repo: Any) -> Any:
        names = [name for owner, name in hub.files if owner == repo]
        if not names:
            return self.answer(404, b'{"error": "not found"}')
        siblings = []
        for name in names:
            content = hub.files[repo, name]
            digest = hashlib.sha256(content).hexdigest()
            lfs = {"size": len(content), "sha256": digest, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": len(content), "blobId": "x", "lfs": lfs})
        info = {"_id": "1", "id": repo, "sha": REVISION, "siblings": siblings, "private": False, "gated": False}
        info |= {"disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return self.answer(200, json.dumps(info).encode(), "application/json")

    def answer_file(self, hub: Any, content: Any) -> Any:
        if hub.statuses:
            return self.answer(hub.statuses.pop(0), b"{}")
        if hub.damage:
            content = bytes(len(content))
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers.get("Range") else 0
        start = start if hub.ranges else 0
        self.send_response(206 if hub.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if hub.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if hub.break_after:
            self.wfile.write(content[start : start + hub.break_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
        else:
            self.wfile.write(content[start:])
        return None

    def answer(self, status: Any, body: Any, kind: Any = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections are cut on purpose


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = Server(("127.0.0.1", 0), Handler)
    server.hub = Hub()  # type: ignore[attr-defined]
    server.hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server.hub  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def encoder(e5_encoder: Any) -> Any:
    return Encoder(EncoderConfig(model=str(e5_encoder), device="cpu"))


@pytest.fixture
def published(hub: Any, corpus: Any, encoder: Any) -> Any:
    """wiki-18 in small: a corpus, and both indexes in two parts."""
    lines = b"".join(
        json.dumps({"id": str(row), "contents": f'"{d.title}"\n{d.text}'}).encode() + b"\n"
        for row, d in enumerate(corpus)
    )
    hub.files[CORPUS, "wiki-18.jsonl.gz"] = gzip.compress(lines)
    hub.files[CORPUS, "README.md"] = b"notes"
    rows = encoder.encode_documents(list(corpus))
    flat, graph = faiss.IndexFlatIP(32), faiss.IndexHNSWFlat(32, 64, faiss.METRIC_INNER_PRODUCT)
    for repo, index in ((FLAT, flat), (GRAPH, graph)):
        index.add(rows)
        content = bytes(faiss.serialize_index(index))
        cut = len(content) * 2 // 3
        hub.files |= {(repo, "part_ab"): content[cut:], (repo, "part_aa"): content[:cut], (repo, "README.md"): b"notes"}
    hub.lines = lines
    return hub


def options(hub: Any, encoder: Any, **settings: Any) -> Any:
    return PullConfig(endpoint=hub.endpoint, encoder=encoder.spec.model, **settings)


def check(folder: Any, corpus: Any, encoder: Any) -> None:
    """The index answers as one over the same documents does."""
    retriever = DenseRetriever.open(folder, encoder=encoder)
    query = f"{corpus[7].title} {corpus[7].text}"
    scores = encoder.encode_queries([query])[0] @ encoder.encode_documents(list(corpus)).T
    (hits,) = retriever.search([query], 3)
    assert [hit.document.id for hit in hits] == [str(row) for row in np.argsort(-scores)[:3]]
    assert hits[0].document.text == corpus[int(scores.argmax())].text


@pytest.mark.parametrize("kind", ["flat", "hnsw64"])
def test_corpus_and_index_are_fetched_joined_and_searchable(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path, kind: str
) -> None:
    seen = []
    manifest = pull(
        "wiki-18",
        out=tmp_path / "wiki",
        config=options(published, encoder, kind=kind),
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert manifest.num_documents == 300
    names = sorted(path.name for path in (tmp_path / "wiki").iterdir())
    assert names == sorted(["corpus", kind, "pull.json"])
    assert len(list((tmp_path / "wiki" / kind).iterdir())) == 3  # the joined file, its digest and the manifest
    check(tmp_path / "wiki" / kind, corpus, encoder)
    assert {what for what, _, _ in seen} >= {"fetching wiki-18.jsonl.gz", "importing the corpus"}
    assert all(done <= total for _, done, total in seen)
    assert json.loads((tmp_path / "wiki" / "pull.json").read_text())["revisions"][CORPUS] == REVISION


def test_the_second_kind_uses_the_corpus_of_the_first(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    published.requests.clear()
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder, kind="hnsw64"))
    assert not [path for path, _ in published.requests if "jsonl" in path]
    check(tmp_path / "w" / "hnsw64", corpus, encoder)
    with pytest.raises(ConfigError, match="holds an index already"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))


def test_cut_connections_and_busy_servers_are_tried_again_from_where_they_stopped(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    published.break_after = [100, 1000, 0, 0, 5000, 300]
    published.statuses = [503, 429]
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    check(tmp_path / "w" / "flat", corpus, encoder)
    starts = [ranges for path, ranges in published.requests if "wiki-18.jsonl.gz" in path]
    assert starts[:2] == ["bytes=0-", "bytes=0-"]
    assert "bytes=100-" in starts
    assert "bytes=1100-" in starts


def test_a_pull_that_was_stopped_goes_on_with_the_same_command(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    size = len(published.files[FLAT, "part_aa"])
    published.break_after = [10**9, size, 2000, *[0] * 50]  # the corpus comes; the index stops in its second part
    with pytest.raises(DataError, match=r"part_ab: the download stopped after .* bytes .*the same command continues"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    partial = tmp_path / "w" / "flat" / "e5_Flat.index.partial"
    assert partial.stat().st_size == size + 2000
    published.break_after = []
    published.requests.clear()
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    fetched = [(path.rpartition("/")[2], ranges) for path, ranges in published.requests if "resolve" in path]
    assert fetched == [("part_ab", "bytes=2000-")]
    assert not partial.exists()
    check(tmp_path / "w" / "flat", corpus, encoder)


def test_a_server_that_ignores_ranges_costs_time_but_no_bytes(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    published.ranges = False
    published.break_after = [700, 900]
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    check(tmp_path / "w" / "flat", corpus, encoder)


def test_a_part_that_came_damaged_is_fetched_anew(published: Any, corpus: Any, encoder: Any, tmp_path: Path) -> None:
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder, kind="hnsw64"))
    published.damage = True
    with pytest.raises(DataError, match=r"part_aa: its digest is .* damaged on the way"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    assert (tmp_path / "w" / "flat" / "e5_Flat.index.partial").stat().st_size == 0
    published.damage = False
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    check(tmp_path / "w" / "flat", corpus, encoder)


def test_a_corpus_that_is_an_archive_under_another_name_is_unpacked(
    published: Any, corpus: Any, encoder: Any, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("data00/somebody/wiki_dump.jsonl")
        member.size = len(published.lines)
        archive.addfile(member, io.BytesIO(published.lines))
    published.files[CORPUS, "wiki-18.jsonl.gz"] = buffer.getvalue()
    pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    check(tmp_path / "w" / "flat", corpus, encoder)


def test_a_broken_corpus_and_one_of_another_size_are_refused(published: Any, encoder: Any, tmp_path: Path) -> None:
    whole = published.files[CORPUS, "wiki-18.jsonl.gz"]
    published.files[CORPUS, "wiki-18.jsonl.gz"] = whole[:-50]
    with pytest.raises(DataError, match="gzip"):
        pull("wiki-18", out=tmp_path / "a", config=options(published, encoder))
    shorter = b"\n".join(published.lines.splitlines()[:-1])
    published.files[CORPUS, "wiki-18.jsonl.gz"] = gzip.compress(shorter)
    with pytest.raises(DataError, match="300 vectors, but the corpus has 299 documents"):
        pull("wiki-18", out=tmp_path / "b", config=options(published, encoder))
    with_hole = published.lines.replace(b'"contents"', b'"nothing"', 1)
    published.files[CORPUS, "wiki-18.jsonl.gz"] = gzip.compress(with_hole)
    with pytest.raises(DataError, match=r"jsonl.gz:1"):
        pull("wiki-18", out=tmp_path / "c", config=options(published, encoder))


def test_too_little_room_is_said_before_anything_is_fetched(
    published: Any, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibadv.retrieval.dense import pull as pulling

    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"are needed there, 1000 B are free"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    assert not [path for path, _ in published.requests if "resolve" in path]
    assert not (tmp_path / "w").exists()


def test_refused_and_unknown_data_sets_say_what_to_do(published: Any, encoder: Any, tmp_path: Path) -> None:
    published.statuses = [403]
    with pytest.raises(DataError, match="the hub refuses the file"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    del published.files[FLAT, "part_aa"], published.files[FLAT, "part_ab"]
    with pytest.raises(DataError, match=r"no part_\* files and no .index file"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder))
    with pytest.raises(ConfigError, match="nothing is published under that name; known: wiki-18"):
        pull("wiki-19", out=tmp_path / "w")
    with pytest.raises(ConfigError, match="has the indexes flat, hnsw64"):
        pull("wiki-18", out=tmp_path / "w", config=options(published, encoder, kind="ivf"))


def test_a_machine_without_a_hub_is_told_how_to_do_it_by_hand(
    hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["index", "pull", "wiki-18", "--out", str(tmp_path / "w")]) == 2
    message = capsys.readouterr().err
    for part in ("at http://127.0.0.1:9 is unreachable", "HF_ENDPOINT", "calibadv index convert", "--to as-is"):
        assert part in message
    assert not (tmp_path / "w").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["index", "pull", "wiki-18", "--out", str(tmp_path / "w")]) == 2


def test_the_command_pulls(
    published: Any,
    corpus: Any,
    encoder: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", published.endpoint)
    monkeypatch.chdir(tmp_path)
    assert main(["index", "pull", "wiki-18", "--encoder", encoder.spec.model]) == 0
    assert "calibadv retriever serve wiki-18/flat" in capsys.readouterr().out
    check(tmp_path / "wiki-18" / "flat", corpus, encoder)
