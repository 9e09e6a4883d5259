"""``calibadv index recall`` and ``audit``: what an index finds of what questions need; what its corpus has at all."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import (
    add_corpus_option,
    add_device_option,
    add_encoder_option,
    add_search_device_option,
    new_command,
)
from calibadv.cli.terminal import print_table, progress_bar
from calibadv.cli.trajectories import clean
from calibadv.errors import ConfigError
from calibadv.retrieval.corpus.read import read_corpus

if TYPE_CHECKING:
    from calibadv.evaluation.coverage import Coverage
    from calibadv.evaluation.recall import Recall
    from calibadv.retrieval.corpus.corpus import Corpus
    from calibadv.trajectory import Question

RECALL_EPILOG = """\
examples
  calibadv index recall corpora/wiki/bm25 --questions nq.test.jsonl hotpotqa.test.jsonl
  calibadv index recall corpora/wiki/dense --questions nq.test.jsonl --k 1,5,100 --json
  calibadv index recall http://127.0.0.1:8000 --questions nq.test.jsonl --k 3     what a running server finds, re-ranked

Answer recall@k: share of the questions with a passage among the first k that holds a golden answer as whole words
(yes/no questions left out). All support@k: every supporting passage is among the first k, where the data names them.
The query is the question itself, so multi-hop questions score lower than an agent that searches several times can. For
approximate dense indexes also exact@k: share of the k nearest passages of an exact search that the index finds.
"""
AUDIT_EPILOG = """\
examples
  calibadv index audit corpora/wiki/bm25 --questions hotpotqa.test.jsonl
  calibadv index audit corpora/wiki --questions hotpotqa.test.jsonl           the corpus alone, without top k
  calibadv index audit corpora/wiki/bm25 --questions hotpotqa.test.jsonl --json > audit.json    with all ids

A question is unanswerable from a corpus when none of its golden answers occurs in any document: no retriever and no
policy can answer it there. That an answer occurs does not mean that the passage answers the question: shares are upper
bounds, loose ones for years and common words. Reads every document once.
"""
SHOWN = 5


def add_tools(tools: Any) -> None:
    """Add ``recall`` and ``audit`` to ``calibadv index``."""
    recall = new_command(
        tools,
        "recall",
        help="how much of what questions need an index finds",
        description="Recall of an index, or of a running server, on questions with golden answers.",
        epilog=RECALL_EPILOG,
    )
    recall.add_argument("index", metavar="INDEX|URL", help="folder of an index, or the address of a server")
    _add_options(recall)
    recall.add_argument(
        "--k", type=whole_numbers, default=(3, 20), metavar="K[,K...]", help="hits that count (default: 3,20)"
    )
    recall.add_argument(
        "--exact", type=int, default=None, metavar="N", help="questions also searched exactly (default: 500; 0: none)"
    )
    recall.set_defaults(command=run_recall)

    audit = new_command(
        tools,
        "audit",
        help="which questions cannot be answered from a corpus",
        description="Share of questions whose answer and supporting articles are in a corpus at all, and within top k.",
        epilog=AUDIT_EPILOG,
    )
    audit.add_argument("index", metavar="INDEX|CORPUS", help="folder of an index, or of a corpus alone")
    _add_options(audit)
    audit.add_argument("--k", type=whole_numbers, default=(20,), metavar="K", help="hits that count (default: 20)")
    audit.set_defaults(command=run_audit)


def run_recall(arguments: argparse.Namespace) -> None:
    """Measure and print recall."""
    from calibadv.evaluation.recall import RecallConfig, measure_recall

    exact = {} if arguments.exact is None else {"num_exact": arguments.exact}
    config = RecallConfig(ks=arguments.k, **exact)
    questions = read_questions(arguments.questions)
    retriever = open_target(arguments)
    start = time.perf_counter()
    with progress_bar("questions") as progress:
        rows = measure_recall(questions, retriever=retriever, config=config, progress=progress)
    if arguments.json:
        report = {
            "index": retriever.manifest(),
            "questions": [str(path) for path in arguments.questions],
            "seconds": round(time.perf_counter() - start, 2),
            "recall": {row.name: asdict(row) for row in rows},
        }
        print(json.dumps(report, indent=2))
        return
    print_table(*recall_table(rows, ks=config.ks))


def run_audit(arguments: argparse.Namespace) -> None:
    """Scan the corpus, search the questions, print coverage."""
    from calibadv.evaluation.coverage import measure_coverage, scan_corpus
    from calibadv.evaluation.recall import find_evidence

    if len(arguments.k) != 1:
        raise ConfigError(f"audit takes one --k, got {','.join(map(str, arguments.k))}; recall takes several")
    (k,) = arguments.k
    questions = read_questions(arguments.questions)
    retriever, corpus = open_index_or_corpus(arguments)
    found = None
    if retriever is not None:
        with progress_bar("questions") as progress:
            found = find_evidence(questions, retriever=retriever, k=k, progress=progress)
    start = time.perf_counter()
    with progress_bar("documents") as progress:
        scan = scan_corpus(questions, corpus=corpus, progress=progress)
    seconds = time.perf_counter() - start
    rows = measure_coverage(questions, scan=scan, found=found, k=k)
    if arguments.json:
        report = {
            "corpus": corpus.name,
            "corpus_sha256": corpus.sha256,
            "index": None if retriever is None else retriever.manifest(),
            "k": k,
            "num_documents": scan.num_documents,
            "scan_seconds": round(seconds, 2),
            "coverage": {row.name: asdict(row) for row in rows},
        }
        print(json.dumps(report, indent=2))
        return
    print_table(*audit_table(rows, k=k))
    print_gaps(rows)
    print(f"{scan.num_documents:,} documents read in {seconds:.1f} s")


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """All questions of the files; an id may occur once per data set."""
    from calibadv.data.questions import check_questions, load_questions

    questions = [question for path in paths for question in load_questions(path)]
    check_questions(questions)
    return questions


def open_target(arguments: argparse.Namespace) -> Any:
    """The index in a folder, or the server at an address."""
    if arguments.index.startswith(("http://", "https://")):
        from calibadv.retrieval.client.retriever import RemoteRetriever

        retriever = RemoteRetriever(arguments.index)
        retriever.wait_until_ready(0)
        return retriever
    from calibadv.retrieval.open import open_index

    return open_index(
        arguments.index,
        corpus=arguments.corpus,
        encoder=arguments.encoder,
        device=arguments.device,
        search_device=arguments.search_device,
    )


def open_index_or_corpus(arguments: argparse.Namespace) -> tuple[Any, Corpus]:
    """The index with its corpus; no index when a corpus alone was named."""
    from calibadv.retrieval.index.manifest import MANIFEST

    if arguments.index.startswith(("http://", "https://")):
        raise ConfigError(
            f"audit reads every document, so it needs the folder of the index or corpus, not {arguments.index}"
        )
    path = Path(arguments.index)
    if path.is_file() or ((path / "corpus.json").is_file() and not (path / MANIFEST).is_file()):
        return None, read_corpus(path)
    retriever = open_target(arguments)
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


def whole_numbers(text: str) -> tuple[int, ...]:
    """``3,20``, for argparse: one or more whole numbers >= 1, each once, ascending."""
    try:
        numbers = {int(part) for part in text.split(",")}
    except ValueError:
        numbers = {0}
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be whole numbers >= 1 such as 3,20, got {text!r}")
    return tuple(sorted(numbers))


def share(value: float | None) -> str:
    """Three decimals, or a dash where nothing was counted."""
    return "-" if value is None else f"{value:.3f}"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions", type=Path, nargs="+", required=True, metavar="FILE", help=".jsonl, .jsonl.gz or .parquet files"
    )
    add_corpus_option(parser)
    add_encoder_option(parser)
    add_device_option(parser)
    add_search_device_option(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")


def _titles(missing: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(title for titles in missing.values() for title in titles))


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{len(names):,}: {shown}" + (f", and {more:,} more (--json lists all)" if more > 0 else "")
