"""Data sets of the hub: from a local server that speaks its protocol, and from the cache when there is no network."""

import gzip
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import import_corpus

pytest.importorskip("huggingface_hub")

ROWS = [{"id": f"n{i}", "contents": f'"Title {i}"\ntext {i}'} for i in range(200)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PART = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS[:120]).encode(), mtime=0)
REST = "".join(json.dumps(row) + "\n" for row in ROWS[120:]).encode()
FILES = {"README.md": b"# A data set", "data/part-0.jsonl.gz": PART, "data/part-1.jsonl": REST, "other/x.jsonl": REST}


def make_cache(root: Any, files: Any = FILES) -> Any:
    """The folder layout of the hub's cache: refs/main names a revision below snapshots, whose files link to blobs."""
    folder = root / "datasets--some--corpus"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        path = folder / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(blob, path.parent))
    return folder


def without_other(files: Any = FILES) -> Any:
    return {name: content for name, content in files.items() if not name.startswith("other/")}


def run_import(tmp_path: Path, source: Any, **environment: Any) -> Any:
    """Import in a process of its own: the hub's settings are read when it is imported."""
    code = """
import json, sys
from calibadv.errors import DataError
from calibadv.retrieval.corpus.importing import import_corpus
try:
    print(json.dumps(import_corpus([sys.argv[1]], out=sys.argv[2]).to_record()))
except DataError as error:
    sys.exit(str(error))
"""
    return subprocess.run(
        [sys.executable, "-c", code, source, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
    )


def check_corpus(folder: Any) -> Any:
    corpus = Corpus.open(folder)
    assert [document.id for document in corpus] == [row["id"] for row in ROWS]
    assert corpus.get("n7").title == "Title 7"
    return corpus


def test_a_folder_of_the_hubs_cache_is_read_like_any_folder(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, without_other())
    import_corpus([folder], out=tmp_path / "out")
    check_corpus(tmp_path / "out")
    (folder / "refs" / "main").unlink()
    import_corpus([folder / "snapshots" / COMMIT], out=tmp_path / "out-2")
    import_corpus([folder], out=tmp_path / "out-3")
    assert len({Corpus.open(tmp_path / f"out{n}").sha256 for n in ("", "-2", "-3")}) == 1
    (folder / "snapshots" / "another").mkdir()
    with pytest.raises(DataError, match="which of the 2 revisions"):
        import_corpus([folder], out=tmp_path / "out-4")


def test_without_a_network_the_cache_is_read(tmp_path: Path) -> None:
    make_cache(tmp_path / "cache", without_other())
    done = run_import(tmp_path, "some/corpus", HF_HUB_CACHE=str(tmp_path / "cache"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    corpus = check_corpus(tmp_path / "out")
    assert corpus.manifest.source == (f"hf://datasets/some/corpus@{COMMIT}",)


def test_without_network_and_cache_the_message_says_what_to_do(tmp_path: Path) -> None:
    done = run_import(tmp_path, "some/corpus", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "is unreachable (HF_HUB_OFFLINE is set)" in done.stderr
    assert "name the files" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of the hub: what a data set has, and its files with their digests."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: Any) -> None:
        api, resolve = "/api/datasets/some/corpus", f"/datasets/some/corpus/resolve/{COMMIT}/"
        if self.path.split("?")[0] in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in FILES]
            body = json.dumps({"id": "some/corpus", "sha": COMMIT, "siblings": siblings}).encode()
            self.reply(200, body, {"Content-Type": "application/json"}, with_body=with_body)
        elif self.path.startswith(resolve) and (name := self.path.removeprefix(resolve)) in FILES:
            digest = hashlib.sha256(FILES[name]).hexdigest()
            self.reply(200, FILES[name], {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}, with_body=with_body)
        else:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.reply(404, b"", headers, with_body=with_body)

    def reply(self, status: Any, body: Any, headers: Any, *, with_body: Any) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_data_set_is_fetched_from_the_hub(tmp_path: Path, hub: Any) -> None:
    done = run_import(tmp_path, "hf://datasets/some/corpus/data", HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    corpus = check_corpus(tmp_path / "out")
    assert corpus.manifest.source == (f"hf://datasets/some/corpus@{COMMIT}/data",)
    assert json.loads(done.stdout)["num_files"] == 2


def test_a_data_set_with_several_folders_must_be_told_which(tmp_path: Path, hub: Any) -> None:
    done = run_import(tmp_path, "some/corpus", HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert "its data lies in 2 folders (data, other); name one of them" in done.stderr


def test_a_data_set_that_the_hub_does_not_have_is_named(tmp_path: Path, hub: Any) -> None:
    done = run_import(tmp_path, "some/thing", HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert done.returncode == 1
    assert "some/thing: no such file or folder, and no such data set" in done.stderr
