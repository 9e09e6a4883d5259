"""How fast a corpus is read for the coverage audit, and in how much memory.

    python benchmarks/coverage.py [--json] [--documents 20000 200000] [--questions 5000]
    python benchmarks/coverage.py --corpus corpora/wiki --question-files nq.test.jsonl hotpotqa.test.jsonl

Without ``--corpus`` documents are 100 words drawn as words occur (Zipf), and of the answers one half occur in them. The
time is that of the pass over all documents that ``calibadv index audit`` makes; what it searches besides is the index's
own time. "Of 21 M" is what this rate makes of wiki-18's 21,015,324 passages: an extrapolation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibadv.data.questions import load_questions
from calibadv.evaluation.coverage import scan_corpus
from calibadv.retrieval import Corpus, import_corpus
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.trajectory import Question

WIKI_18 = 21_015_324
NUM_WORDS = 200_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--question-files", type=Path, nargs="+")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.corpus is not None:
        if not arguments.question_files:
            parser.error("--corpus needs --question-files")
        questions = [q for path in arguments.question_files for q in load_questions(path)]
        rows = [measure(read_corpus(arguments.corpus), questions)]
    else:
        rows = []
        for number in arguments.documents:
            with tempfile.TemporaryDirectory() as folder:
                corpus = synthetic_corpus(number, folder=Path(folder))
                rows.append(measure(corpus, synthetic_questions(arguments.questions)))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| documents | questions | seconds | CPU s | documents/s | answers in corpus | peak MB | of 21 M, minutes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(f"{value:,}" for value in row.values()) + " |")


def measure(corpus: Corpus, questions: list[Question]) -> dict[str, Any]:
    """One pass over the corpus."""
    start, cpu = time.perf_counter(), time.process_time()
    scan = scan_corpus(questions, corpus=corpus)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "documents": len(corpus),
        "questions": len(questions),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "documents_per_second": round(len(corpus) / seconds),
        "answers_found": len(scan.answers),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "minutes_for_wiki_18": round(WIKI_18 / len(corpus) * seconds / 60, 1),
    }


def synthetic_corpus(number: int, *, folder: Path) -> Corpus:
    """Documents of 100 words, in a corpus folder."""
    path = folder / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row, words in enumerate(itertools.islice(synthetic_texts(), number)):
            text = " ".join(f"w{word}" for word in words)
            file.write(json.dumps({"id": str(row), "title": f"Title {row}", "text": text}) + "\n")
    import_corpus([str(path)], out=folder / "corpus")
    return Corpus.open(folder / "corpus")


def synthetic_texts() -> Iterator[list[int]]:
    """Word numbers of one document after the other."""
    rng = np.random.default_rng(0)
    while True:
        yield from (rng.zipf(1.3, size=(1000, 100)) % NUM_WORDS).tolist()


def synthetic_questions(number: int) -> list[Question]:
    """Answers of one to three words: every other one from a document, the others from nowhere."""
    rng = np.random.default_rng(1)
    questions = []
    for row, words in enumerate(itertools.islice(synthetic_texts(), number)):
        size = int(rng.integers(1, 4))
        answer = " ".join(f"w{word}" for word in words[:size]) if row % 2 else f"nowhere{row} w1"
        questions.append(Question(id=str(row), text=f"question {row}", golden_answers=(answer,), dataset="synthetic"))
    return questions


if __name__ == "__main__":
    main()
