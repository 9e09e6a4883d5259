"""How a corpus of any size opens, reads and is made: time and resident memory.

    python benchmarks/corpus.py [--json] [--sizes 20000,200000,2000000]

Synthetic passages of about a hundred words, once with ids that are row numbers (as in wiki-18) and once with other ids.
Every corpus is opened in a process of its own, which then reads a thousand random rows, a thousand random ids and a
batch of a thousand rows. "opened_mb" and "resident_mb" are what its resident memory grew by after opening and at the
end; NumPy and Arrow were loaded before, and pages of the file that the kernel maps around each read count. The file is
in the page cache. The import reads a .jsonl.gz file; "peak_mb" is the most resident memory of that process, everything
included.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = (20_000, 200_000, 2_000_000)
NUM_READS = 1_000
OPEN = """
import json, random, sys, time
import numpy, pyarrow, pyarrow.ipc
from calibadv.retrieval.corpus.corpus import Corpus

def resident_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

def timed(run):
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result

folder, num_reads, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3]
before = resident_mb()
open_s, corpus = timed(lambda: Corpus.open(folder))
opened = resident_mb()
rng = random.Random(0)
rows, more, again = (rng.sample(range(len(corpus)), num_reads) for _ in range(3))
row_s, documents = timed(lambda: [corpus[row] for row in rows])
del documents
id_s, documents = timed(lambda: [corpus.get(f"{prefix}{row}") for row in more])
assert all(document.id == f"{prefix}{row}" for document, row in zip(documents, more))
del documents
take_s, documents = timed(lambda: corpus.take(again))
del documents
print(json.dumps({
    "open_ms": round(open_s * 1e3, 2),
    "opened_mb": round(opened - before, 1),
    "resident_mb": round(resident_mb() - before, 1),
    "row_us": round(row_s / num_reads * 1e6, 1),
    "id_us": round(id_s / num_reads * 1e6, 1),
    "take_us": round(take_s / num_reads * 1e6, 1),
}))
"""
IMPORT = """
import json, resource, sys, time
from calibadv.retrieval.corpus.importing import import_corpus

start = time.perf_counter()
report = import_corpus([sys.argv[1]], out=sys.argv[2])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import_s": round(seconds, 2), "documents_per_s": round(report.num_documents / seconds),
                  "peak_mb": round(peak)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), metavar="N,N,...", help="numbers of documents")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the corpora are written (default: temporary)")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size in sizes:
            for ids in ("row numbers", "others"):
                rows.append(measure(Path(folder), size=size, ids=ids))
    if arguments.json:
        print(json.dumps({"rows": rows}, indent=1))
        return
    print("  ".join(f"{name:>15}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>15,}" if isinstance(value, int) else f"{value:>15}" for value in row.values()))


def measure(folder: Path, *, size: int, ids: str) -> dict[str, Any]:
    """Make a corpus of this size and open it."""
    prefix = "" if ids == "row numbers" else "passage-"
    source, corpus = folder / "source.jsonl.gz", folder / "corpus"
    write_source(source, size=size, prefix=prefix)
    made = run_python(IMPORT, str(source), str(corpus))
    source.unlink()
    num_bytes = sum(path.stat().st_size for path in corpus.iterdir())
    run_python(OPEN, str(corpus), str(NUM_READS), prefix)  # the first run fills the page cache
    opened = run_python(OPEN, str(corpus), str(NUM_READS), prefix)
    for path in corpus.iterdir():
        path.unlink()
    corpus.rmdir()
    return {"documents": size, "ids": ids, "disk_mb": round(num_bytes / 1e6), **opened, **made}


def write_source(path: Path, *, size: int, prefix: str) -> None:
    """Passages in the wiki-18 form: words of a skewed vocabulary, 60 to 140 of them."""
    rng = random.Random(0)
    words = [f"word{int(rng.paretovariate(0.4)) % 50_000}" for _ in range(200_000)]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for row in range(size):
            start = rng.randrange(len(words) - 140)
            text = " ".join(words[start : start + rng.randrange(60, 140)])
            file.write(json.dumps({"id": f"{prefix}{row}", "contents": f'"Title {row}"\n{text}'}) + "\n")


def run_python(code: str, *arguments: str) -> dict[str, Any]:
    """A fresh interpreter; the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
