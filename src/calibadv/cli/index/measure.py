"""``calibadv index recall`` and ``audit``: what an index finds of what questions need; what its corpus has at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from calibadv.cli.console.options import Json, command, fill, print_json, takes
from calibadv.cli.console.terminal import clean, print_table, progress_bars
from calibadv.data.questions import check_questions, load_questions
from calibadv.errors import ConfigError
from calibadv.evaluation.coverage import Coverage, measure_coverage, scan_corpus
from calibadv.evaluation.recall import Recall, RecallConfig, find_evidence, measure_recall
from calibadv.retrieval.client.retriever import RemoteRetriever
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.index.manifest import MANIFEST
from calibadv.retrieval.open import open_index
from calibadv.retrieval.server.backend import BackendConfig
from calibadv.runs.progress import about
from calibadv.trajectory import Question

RECALL_EXAMPLES = """\
  calibadv index recall corpora/wiki/bm25 --questions nq.test.jsonl hotpotqa.test.jsonl
  calibadv index recall corpora/wiki/dense --questions nq.test.jsonl --k 1,5,100 --json
  calibadv index recall http://127.0.0.1:8000 --questions nq.test.jsonl --k 3    a running server, re-ranked

Answer recall@k: share of the questions with a passage among the first k that
holds a golden answer as whole words (yes/no questions left out). All support@k:
every supporting passage is among the first k, where the data names them. The
query is the question itself, so multi-hop questions score lower than an agent
that searches several times can. For approximate dense indexes also exact@k:
share of the k nearest passages of an exact search that the index finds.
"""
AUDIT_EXAMPLES = """\
  calibadv index audit corpora/wiki/bm25 --questions hotpotqa.test.jsonl
  calibadv index audit corpora/wiki --questions hotpotqa.test.jsonl         the corpus alone, without top k
  calibadv index audit corpora/wiki/bm25 --questions hotpotqa.test.jsonl --json    with all ids

A question is unanswerable from a corpus when none of its golden answers occurs
in any document: no retriever and no policy can answer it there. That an answer
occurs does not mean that the passage answers the question: shares are upper
bounds, loose ones for years and common words. Reads every document once.
"""
SHOWN = 5
PLACES = ("corpus", "encoder", "device", "search_device")
"""Options of every command that opens an index, those of `BackendConfig`."""
Questions = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--questions", consume_multiple=(1, None), metavar="FILE", help=".jsonl, .jsonl.gz or .parquet files."
    ),
]

recall = command("recall", examples=RECALL_EXAMPLES)
audit = command("audit", examples=AUDIT_EXAMPLES)


@recall.default
@takes(RecallConfig, ks="k", num_exact="exact")
@takes(BackendConfig, *PLACES)
def run_recall(
    index: Annotated[str, Parameter(help="Folder of an index, or the address of a server.")],
    /,
    *,
    questions: Questions,
    json: Json = False,
    **options: Any,
) -> None:
    """Measure the recall of an index, or of a running server, on questions with golden answers."""
    config = fill(RecallConfig, options | {"ks": tuple(sorted(set(options["ks"])))})
    asked = read_questions(questions)
    retriever = open_target(index, options)
    start = time.perf_counter()
    with progress_bars() as progress:
        rows = measure_recall(asked, retriever=retriever, config=config, progress=about(progress, "questions"))
    if json:
        print_json(
            {
                "index": retriever.manifest(),
                "questions": [str(path) for path in questions],
                "seconds": round(time.perf_counter() - start, 2),
                "recall": {row.name: asdict(row) for row in rows},
            }
        )
        return
    print_table(*recall_table(rows, ks=config.ks))


@audit.default
@takes(BackendConfig, *PLACES)
def run_audit(
    index: Annotated[str, Parameter(help="Folder of an index, or of a corpus alone.")],
    /,
    *,
    questions: Questions,
    k: Annotated[PositiveInt, Parameter(help="How many hits count.")] = 20,
    json: Json = False,
    **options: Any,
) -> None:
    """Find questions whose answer or supporting articles are not in a corpus, or not within top k."""
    asked = read_questions(questions)
    retriever, corpus = open_index_or_corpus(index, options)
    with progress_bars() as progress:
        found = None
        if retriever is not None:
            found = find_evidence(asked, retriever=retriever, k=k, progress=about(progress, "questions"))
        start = time.perf_counter()
        scan = scan_corpus(asked, corpus=corpus, progress=about(progress, "documents"))
        seconds = time.perf_counter() - start
    rows = measure_coverage(asked, scan=scan, found=found, k=k)
    if json:
        print_json(
            {
                "corpus": corpus.name,
                "corpus_sha256": corpus.sha256,
                "index": None if retriever is None else retriever.manifest(),
                "k": k,
                "num_documents": scan.num_documents,
                "scan_seconds": round(seconds, 2),
                "coverage": {row.name: asdict(row) for row in rows},
            }
        )
        return
    print_table(*audit_table(rows, k=k))
    print_gaps(rows)
    print(f"{scan.num_documents:,} documents read in {seconds:.1f} s")


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """All questions of the files; an id may occur once per data set."""
    questions = [question for path in paths for question in load_questions(path)]
    check_questions(questions)
    return questions


def open_target(index: str, options: Mapping[str, Any]) -> Any:
    """The index in a folder, or the server at an address."""
    if index.startswith(("http://", "https://")):
        retriever = RemoteRetriever(index)
        retriever.wait_until_ready(0)
        return retriever
    return open_index(index, **{name: options[name] for name in PLACES})


def open_index_or_corpus(index: str, options: Mapping[str, Any]) -> tuple[Any, Corpus]:
    """The index with its corpus; no index when a corpus alone was named."""
    if index.startswith(("http://", "https://")):
        raise ConfigError(f"audit reads every document, so it needs the folder of the index or corpus, not {index}")
    path = Path(index)
    if path.is_file() or ((path / "corpus.json").is_file() and not (path / MANIFEST).is_file()):
        return None, read_corpus(path)
    retriever = open_target(index, options)
    return retriever, retriever.corpus


def recall_table(rows: Sequence[Recall], *, ks: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a terminal."""
    with_exact = any(row.num_exact for row in rows)
    header = ["data set", "questions", "answers", *(f"answer@{k}" for k in ks)]
    header += ["supports", *(f"all support@{k}" for k in ks)]
    header += [f"exact@{k}" for k in ks] if with_exact else []
    lines = [
        [clean(row.name), f"{row.num_questions:,}", f"{row.num_answers:,}"]
        + [share(row.answers.get(k)) for k in ks]
        + [f"{row.num_supports:,}"]
        + [share(row.supports.get(k)) for k in ks]
        + ([share(row.exact.get(k)) for k in ks] if with_exact else [])
        for row in rows
    ]
    return header, lines


def audit_table(rows: Sequence[Coverage], *, k: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a terminal."""
    header = ["data set", "questions", "yes/no", "answers", "in corpus", f"in top {k}"]
    header += ["titles known", "all in corpus", f"all in top {k}", "unanswerable"]
    lines = [
        [
            clean(row.name),
            f"{row.num_questions:,}",
            f"{row.num_yes_no:,}",
            f"{row.num_answers:,}",
            share(row.answer_in_corpus),
            share(row.answer_in_top_k),
            f"{row.num_titles:,}",
            share(row.titles_in_corpus),
            share(row.support_in_top_k),
            f"{row.num_unanswerable:,}",
        ]
        for row in rows
    ]
    return header, lines


def print_gaps(rows: Sequence[Coverage]) -> None:
    """The first questions without an answer or an article in the corpus; --json has all."""
    for row in rows:
        if row.unanswerable:
            print(f"\n{clean(row.name)}: no document holds an answer to {_first(row.unanswerable)}")
        if row.missing_titles:
            print(f"\n{clean(row.name)}: no article for {_first(_titles(row.missing_titles))}")
    print()


def share(value: float | None) -> str:
    """Three decimals, or a dash where nothing was counted."""
    return "-" if value is None else f"{value:.3f}"


def _titles(missing: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(title for titles in missing.values() for title in titles))


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{len(names):,}: {shown}" + (f", and {more:,} more (--json lists all)" if more > 0 else "")
