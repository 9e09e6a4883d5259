"""BM25 engines compared: time, memory and size of index and search, and what they find.

    python benchmarks/bm25.py [--json] [--sizes 20000,200000,2000000] [--miniwiki DIR] [--threads 1]

Synthetic passages of a hundred words: sixty drawn from a million words by Zipf's law, forty stop words. Queries are six
words of a random passage. Each engine builds and searches in processes of its own: "build_peak_mb" is the most resident
memory of the building one, Python and the corpus included; "open_mb" and "search_mb" are what opening and two thousand
searches added to the searching one, pages of the index that the kernel maps included. "query" is one query a call,
"batch" a thousand in one, with --threads; "cpu" is processor time. calibadv's own engine is tantivy;
bm25s, which needs ``pip install bm25s``, keeps everything in arrays and is measured up to --bm25s-most passages.

--miniwiki names a folder with corpus.jsonl.gz and question files: the same figures on real text, and answer recall.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibadv.retrieval.bm25.analysis import STOP_WORDS
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import ImportConfig, import_corpus

NUM_QUERIES, TOP_K = 1_000, 20
VOCABULARY, CONTENT_WORDS, STOP_WORDS_EACH = 1_000_000, 60, 40
SETS = ("nq", "triviaqa", "popqa", "bamboogle", "hotpotqa", "2wikimultihopqa", "musique")

MEASURE = """
import json, sys, time
from pathlib import Path

def memory_mb(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

def resident_mb():
    return memory_mb("VmRSS")

corpus_dir, index_dir = sys.argv[1:3]
queries, k, threads = json.load(open(sys.argv[3])), int(sys.argv[4]), int(sys.argv[5])

def measure(search):
    each = []
    for query in queries:
        start = time.perf_counter()
        search([query])
        each.append(time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    search(queries)
    batch_s, batch_cpu_s = time.perf_counter() - start, time.process_time() - cpu
    each.sort()
    return {
        "query_ms": round(each[len(each) // 2] * 1e3, 3),
        "query_p99_ms": round(each[int(len(each) * 0.99)] * 1e3, 3),
        "batch_ms": round(batch_s / len(queries) * 1e3, 3),
        "batch_cpu_ms": round(batch_cpu_s / len(queries) * 1e3, 3),
        "search_mb": round(resident_mb() - opened, 1),
    }
"""
BUILD_TANTIVY = """
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.corpus.corpus import Corpus
corpus = Corpus.open(corpus_dir)
start, cpu = time.perf_counter(), time.process_time()
build_bm25(corpus, out=index_dir, threads=threads)
seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
"""
BUILD_BM25S = """
import re
import bm25s
from calibadv.retrieval.bm25.analysis import STOP_WORDS
from calibadv.retrieval.corpus.corpus import Corpus
corpus = Corpus.open(corpus_dir)
start, cpu = time.perf_counter(), time.process_time()
word, stop, words = re.compile(r"\\w\\w+"), set(STOP_WORDS), {}
def numbers(text):
    return [words.setdefault(w, len(words)) for w in word.findall(text.lower()) if w not in stop]
rows = [numbers(f"{document.title}\\n{document.text}") for document in corpus]
engine = bm25s.BM25(k1=1.5, b=0.75, method="lucene", backend="numpy", csc_backend="numpy")
engine.index((rows, words), create_empty_token=False, show_progress=False)
engine.save(index_dir)
seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
"""
AFTER_BUILD = """
rate = round(len(corpus) / seconds)
times = {"build_s": round(seconds, 2), "build_cpu_s": round(cpu_s, 2), "documents_per_s": rate}
print(json.dumps({**times, "build_peak_mb": round(memory_mb("VmHWM"))}))
"""
SEARCH_TANTIVY = """
import tantivy
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.corpus.corpus import Corpus
corpus = Corpus.open(corpus_dir)
before, start = resident_mb(), time.perf_counter()
retriever = BM25Retriever.open(index_dir, corpus=corpus, threads=threads)
seconds, opened = time.perf_counter() - start, resident_mb()
figures = measure(lambda queries: retriever.search_rows(queries, k))
figures["segments"] = retriever._searcher.num_segments
"""
SEARCH_BM25S = """
import re
import bm25s
from calibadv.retrieval.bm25.analysis import STOP_WORDS
before, start = resident_mb(), time.perf_counter()
engine = bm25s.BM25.load(index_dir, mmap=True)
seconds, opened = time.perf_counter() - start, resident_mb()
word, stop = re.compile(r"\\w\\w+"), set(STOP_WORDS)
def search(queries):
    words = [[w for w in word.findall(q.lower()) if w in engine.vocab_dict and w not in stop] for q in queries]
    return engine.retrieve(words, k=k, show_progress=False, n_threads=0)
figures = measure(search)
"""
AFTER_SEARCH = """
print(json.dumps({"open_ms": round(seconds * 1e3, 1), "open_mb": round(opened - before, 1), **figures}))
"""
PROGRAMS = {"tantivy": (BUILD_TANTIVY, SEARCH_TANTIVY), "bm25s": (BUILD_BM25S, SEARCH_BM25S)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--sizes", default="20000,200000,2000000", help="numbers of synthetic passages; empty: none")
    parser.add_argument("--miniwiki", type=Path, help="folder with corpus.jsonl.gz and question files")
    parser.add_argument("--threads", type=int, default=1, help="of build and of batches (default: 1)")
    parser.add_argument(
        "--bm25s-most", type=int, default=200_000, help="passages that bm25s is given (default: 200000)"
    )
    parser.add_argument("--work", type=Path, help="folder for corpora and indexes (default: a temporary one)")
    arguments = parser.parse_args()
    engines = [name for name in PROGRAMS if importlib.util.find_spec(name)]
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        results: dict[str, list[dict[str, Any]]] = {"engines": [], "recall": []}
        for size in map(int, filter(None, arguments.sizes.split(","))):
            folder = Path(name) / str(size)
            queries = write_synthetic(folder, size)
            for engine in engines:
                if engine == "tantivy" or size <= arguments.bm25s_most:
                    results["engines"].append(engine_row(engine, folder, queries, threads=arguments.threads))
        if arguments.miniwiki is not None:
            folder = Path(name) / "miniwiki"
            import_corpus([str(arguments.miniwiki / "corpus.jsonl.gz")], out=folder / "corpus", config=ImportConfig())
            queries = [question["question"] for question in read_set(arguments.miniwiki, "hotpotqa")][:NUM_QUERIES]
            for engine in engines:
                row = engine_row(engine, folder, queries, threads=arguments.threads)
                results["engines"].append({**row, "passages": "miniwiki"})
            results["recall"] = recall_rows(arguments.miniwiki, folder, engines)
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    for title, rows in results.items():
        print_rows(title, rows)


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        print(f"{title}\n" + "  ".join(f"{name:>15}" for name in names))
        for row in rows:
            print("  ".join(f"{row.get(name, ''):>15}" for name in names))
        print()


def write_synthetic(folder: Path, size: int) -> list[str]:
    """A corpus folder of ``size`` passages, and queries about it."""
    folder.mkdir()
    source = folder / "corpus.jsonl"
    queries: list[str] = []
    every = max(1, size // NUM_QUERIES)
    rng = np.random.default_rng(1)
    with source.open("w", encoding="utf-8") as file:
        for row, words in enumerate(passages(size)):
            file.write(json.dumps({"id": str(row), "title": words[0], "text": " ".join(words[1:])}) + "\n")
            if row % every == 0 and len(queries) < NUM_QUERIES:
                queries.append(" ".join(words[i] for i in rng.choice(CONTENT_WORDS, 6, replace=False)))
    import_corpus([str(source)], out=folder / "corpus", config=ImportConfig())
    source.unlink()
    return queries


def passages(size: int, *, at_once: int = 20_000) -> Iterator[list[str]]:
    """Lists of words; the first `CONTENT_WORDS` are not stop words."""
    rng = np.random.default_rng(0)
    weights = 1 / (np.arange(VOCABULARY) + 2.7)  # Zipf and Mandelbrot's law of word frequencies
    cumulative = np.cumsum(weights / weights.sum())
    vocabulary = [spell(number) for number in range(VOCABULARY)]
    for start in range(0, size, at_once):
        count = min(at_once, size - start)
        content = np.searchsorted(cumulative, rng.random((count, CONTENT_WORDS))).tolist()
        stops = rng.integers(0, len(STOP_WORDS), (count, STOP_WORDS_EACH)).tolist()
        for numbers, others in zip(content, stops, strict=True):
            yield [vocabulary[number] for number in numbers] + [STOP_WORDS[other] for other in others]


def spell(number: int) -> str:
    """A word of three letters or more for each number.

    >>> spell(0), spell(27)
    ('qaa', 'qbb')
    """
    letters = ""
    while number or len(letters) < 2:
        number, letter = divmod(number, 26)
        letters = chr(97 + letter) + letters
    return f"q{letters}"


def engine_row(engine: str, folder: Path, queries: list[str], *, threads: int) -> dict[str, Any]:
    """Build and search in two processes."""
    index_dir, asked = folder / engine, folder / "queries.json"
    asked.write_text(json.dumps(queries), encoding="utf-8")
    arguments = [str(folder / "corpus"), str(index_dir), str(asked), str(TOP_K), str(threads)]
    build, search = PROGRAMS[engine]
    built = python(MEASURE + build + AFTER_BUILD, arguments)
    size = sum(path.stat().st_size for path in index_dir.rglob("*") if path.is_file())
    found = python(MEASURE + search + AFTER_SEARCH, arguments)
    passages_of = Corpus.open(folder / "corpus")
    return {"engine": engine, "passages": len(passages_of), **built, "index_mb": round(size / 1e6, 1), **found}


def python(program: str, arguments: list[str]) -> dict[str, Any]:
    """The JSON that a fresh interpreter prints last."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    record: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return record


def read_set(folder: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(f"{name}.jsonl")) or sorted(folder.glob(f"{name}.*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def recall_rows(miniwiki: Path, folder: Path, engines: list[str]) -> list[dict[str, Any]]:
    """Answer recall of every question set; the query is the question."""
    from calibadv.data.questions import load_questions
    from calibadv.evaluation.recall import measure_recall
    from calibadv.retrieval.base import Hit
    from calibadv.retrieval.bm25 import BM25Retriever

    corpus = Corpus.open(folder / "corpus")
    retrievers: dict[str, Any] = {"tantivy": BM25Retriever.open(folder / "tantivy", corpus=corpus)}
    if "bm25s" in engines:
        retrievers["bm25s"] = _Bm25s(folder / "bm25s", corpus, Hit)
    rows = []
    for name in SETS:
        paths = sorted(miniwiki.glob(f"{name}.jsonl")) or sorted(miniwiki.glob(f"{name}.*.jsonl"))
        questions = [question for path in paths for question in load_questions(path)]
        row: dict[str, Any] = {"set": name}
        for engine, retriever in retrievers.items():
            recall = measure_recall(questions, retriever=retriever)[-1]
            row["questions"] = recall.num_answers
            row |= {f"{engine} @{k}": round(share, 4) for k, share in recall.answers.items()}
        rows.append(row)
    return rows


class _Bm25s:
    """bm25s behind the protocol of retrievers."""

    def __init__(self, index_dir: Path, corpus: Corpus, hit: Any) -> None:
        import bm25s

        self.corpus, self.hit = corpus, hit
        self.engine = bm25s.BM25.load(str(index_dir), mmap=True)

    def search(self, queries: list[str], k: int) -> list[list[Any]]:
        import re

        stop, known = set(STOP_WORDS), self.engine.vocab_dict
        hits = []
        for query in queries:
            words = [w for w in re.findall(r"\w\w+", query.lower()) if w in known and w not in stop]
            rows, scores = self.engine.retrieve([words], k=k, show_progress=False, n_threads=0)
            found = [(int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if s > 0]
            hits.append([self.hit(self.corpus[row], score) for row, score in found])
        return hits


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s in all", file=sys.stderr)
