"""Kinds of dense index on synthetic vectors: size, memory, opening, building, recall, speed.

    python benchmarks/dense.py [--json] [--sizes 20000,200000,2000000] [--dimension 384] [--kinds flat,sq8]
                               [--folder DIR] [--hnsw-up-to 200000]

The vectors are made up: clusters within topics, with a spectrum that falls off, all of length 1 (`synthetic`). Its
figures were chosen so that at 40,000 vectors inverted lists find about as much as they do among MiniLM vectors of
Wikipedia passages. Queries come from the same clusters but are no stored vector. Vectors are written to disk in
chunks, as float32 (the kind flat) and as float16, which the other kinds are made from and re-scored with. Recall@20 is
the share of the exact float32 top 20 that a kind finds. Opening, memory and search times are those of a fresh process:
resident is what the index keeps in memory after 100 searches (touched pages of its mapped file, and allocations). The
vectors for re-scoring are mapped for the length of a search and let go, so they are on disk besides (disk_besides_mb)
and in memory only as the operating system's cache. The last table is an extrapolation from `IndexParameters.num_bytes`,
not a measurement. Needs about 8 GB of disk for 2 million vectors; --folder keeps the vectors for the next run.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.retrieval.dense.faiss_build import assemble
from calibadv.retrieval.dense.kinds import KINDS, IndexParameters, Kind, check_kind, parameters_for
from calibadv.retrieval.dense.search import VectorIndex
from calibadv.retrieval.dense.vector_file import VectorFile, VectorType, VectorWriter, import_faiss

NUM_QUERIES = 200
TOP_K = 20
CHUNK = 20_000
WIKI_18 = (21_015_324, 768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--sizes", default="20000,200000,2000000", help="numbers of vectors")
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--folder", type=Path, help="keep vectors and indexes here")
    parser.add_argument("--hnsw-up-to", type=int, default=200_000, help="building a graph of millions takes an hour")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe is not None:
        print(json.dumps(probe(arguments.probe)))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="dense-benchmark-"))
    try:
        rows = []
        for size in map(int, arguments.sizes.split(",")):
            kinds: list[Any] = [k for k in arguments.kinds.split(",") if k != "hnsw" or size <= arguments.hnsw_up_to]
            keep = arguments.folder is not None
            rows += measure_size(size, arguments.dimension, kinds=kinds, folder=folder, keep=keep)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    result = {"rows": rows, "extrapolated": extrapolated(rows)}
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for title, table in result.items():
        print(f"\n{title}")
        for row in table:
            print(line(row))


def measure_size(size: int, dimension: int, *, kinds: list[Kind], folder: Path, keep: bool) -> list[dict[str, Any]]:
    """One row a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[VectorType, Path] = {
        "float32": folder / f"{size}x{dimension}.float32",
        "float16": folder / f"{size}x{dimension}.float16",
    }
    write_vectors(paths, size=size, dimension=dimension)
    files = {dtype: VectorFile.open(path) for dtype, path in paths.items()}
    queries = synthetic(size, dimension, start=size, count=NUM_QUERIES)
    exact = VectorIndex(faiss_index=None, parameters=parameters_for("flat", num_vectors=size, dimension=dimension),
                        vectors=files["float32"])  # fmt: skip
    truth = np.array([rows for _, rows in exact.best_exact(queries, TOP_K)])
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", truth)
    rows = []
    for kind in kinds:
        check_kind(kind, num_vectors=size)
        rows.append(measure_kind(kind, files, folder=folder))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    if not keep:
        for path in paths.values():
            path.unlink()
    return rows


def measure_kind(kind: Kind, files: dict[VectorType, VectorFile], *, folder: Path) -> dict[str, Any]:
    """Build here, open and search in a process of its own."""
    source = files["float16"]
    parameters = parameters_for(kind, num_vectors=source.num_vectors, dimension=source.dimension)
    own = {"flat": "float32", "fp16": "float16"}.get(kind)
    path, seconds = folder / f"index.{kind}", None
    if own is not None:
        path = files[own].path  # type: ignore[index]
    else:
        start = time.process_time()
        assemble(source, parameters=parameters, path=path)
        seconds = time.process_time() - start
    job = folder / "job.json"
    vectors = source.path if parameters.rescore else None
    job.write_text(
        json.dumps({"index": str(path), "vectors": vectors and str(vectors), "parameters": asdict(parameters)})
    )
    done = subprocess.run([sys.executable, __file__, "--probe", str(job)], capture_output=True, text=True, check=True)
    size = path.stat().st_size
    if own is None:
        path.unlink()
    flat_bytes = source.num_vectors * source.dimension * 4
    return {
        "vectors": source.num_vectors,
        "kind": kind,
        "index_mb": size / 1e6,
        "bytes_per_vector": size / source.num_vectors,
        "of_flat": size / flat_bytes,
        **json.loads(done.stdout),
        "build_cpu_s": seconds,
        "disk_besides_mb": 0.0 if vectors is None else vectors.stat().st_size / 1e6,
    }


def probe(job: Path) -> dict[str, Any]:
    """Run by `measure_kind` in a fresh process."""
    faiss = import_faiss()
    record = json.loads(job.read_text())
    queries, truth = np.load(job.with_name("queries.npy")), np.load(job.with_name("truth.npy"))
    path = Path(record["index"])
    anonymous = resident()["anonymous"]
    start = time.perf_counter()
    index = VectorIndex(
        faiss_index=faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY),
        parameters=IndexParameters(**record["parameters"]),
        vectors=None if record["vectors"] is None else VectorFile.open(Path(record["vectors"])),
    )
    opened = time.perf_counter() - start
    for query in queries[:100]:
        index.best(query[None], TOP_K)
    held = resident()
    single = timed(index, [query[None] for query in queries[100:150]])
    batched = timed(index, [queries[:64], queries[64:128]])
    found = [rows for _, rows in index.best(queries, TOP_K)]
    recall = np.mean([len(set(a) & set(b)) / TOP_K for a, b in zip(found, truth.tolist(), strict=True)])
    return {
        "resident_mb": held.get(str(path), 0.0) + held["anonymous"] - anonymous,
        "open_s": opened,
        "recall_at_20": float(recall),
        "ms_1": single[0],
        "cpu_ms_1": single[1],
        "ms_64": batched[0],
        "cpu_ms_64": batched[1],
    }


def timed(index: VectorIndex, batches: list[NDArray[np.float32]]) -> tuple[float, float]:
    """Milliseconds a query, on the clock and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        index.best(batch, TOP_K)
    count = sum(map(len, batches))
    return 1000 * (time.perf_counter() - start) / count, 1000 * (time.process_time() - cpu) / count


def resident() -> dict[str, float]:
    """Megabytes in memory: anonymous ones, and those of each mapped file."""
    found: dict[str, float] = {"anonymous": 0.0}
    name = ""
    for text in Path("/proc/self/smaps").read_text().splitlines():
        words = text.split()
        if "-" in words[0] and not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else ""
        elif words[0] == "Rss:":
            found[name] = found.get(name, 0.0) + int(words[1]) * 1024 / 1e6
        elif words[0] == "Anonymous:":
            found["anonymous"] += int(words[1]) * 1024 / 1e6
    return found


def write_vectors(paths: dict[VectorType, Path], *, size: int, dimension: int) -> None:
    """Both files, chunk by chunk, unless a run before has left them."""
    if all(path.exists() for path in paths.values()):
        return
    writers = [VectorWriter(path, dtype=dtype, dimension=dimension) for dtype, path in paths.items()]
    for start in range(0, size, CHUNK):
        chunk = synthetic(size, dimension, start=start, count=min(CHUNK, size - start))
        for writer in writers:
            writer.write(chunk)
    for writer in writers:
        writer.finish()


def synthetic(size: int, dimension: int, *, start: int, count: int) -> NDArray[np.float32]:
    """Rows ``start`` on of a made-up corpus: 1,000 topics, in them clusters of 10 documents, and noise."""
    topics = topic_vectors(1000, dimension)
    scale = spectrum(dimension)
    chance = np.random.default_rng((11, start))
    cluster_N = chance.integers(0, size // 10, count)
    used, position_N = np.unique(cluster_N, return_inverse=True)
    offsets = np.stack([np.random.default_rng((13, int(cluster))).standard_normal(dimension) for cluster in used])
    rows = topics[cluster_N % len(topics)] + 0.7 * scale * offsets[position_N]
    rows += 0.9 * scale * chance.standard_normal((count, dimension))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@functools.cache
def topic_vectors(count: int, dimension: int) -> NDArray[np.float32]:
    """The middle of each topic."""
    drawn = np.random.default_rng(7).standard_normal((count, dimension), dtype=np.float32)
    return drawn * spectrum(dimension).astype(np.float32)


def spectrum(dimension: int) -> NDArray[np.float64]:
    """How much each direction varies: a slow fall, as in the vectors of small encoders."""
    scale = (1 + np.arange(dimension)) ** -0.3
    return np.asarray(scale / np.sqrt((scale**2).sum()))


def extrapolated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sizes for wiki-18 with a base encoder, by formula."""
    num_vectors, dimension = WIKI_18
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        parameters = parameters_for(kind, num_vectors=num_vectors, dimension=dimension)
        besides = num_vectors * dimension * 2 / 1e9 if parameters.rescore else 0.0
        found.append({"vectors": num_vectors, "dimension": dimension, "kind": kind,
                      "index_gb": parameters.num_bytes / 1e9, "disk_besides_gb": besides})  # fmt: skip
    return found


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    return "  ".join(
        f"{name}={value:,.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.items()
    )


if __name__ == "__main__":
    main()
