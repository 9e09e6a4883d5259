"""``calibadv index recall`` and ``audit``: what an index finds of what questions need; what its corpus has at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from calibadv.cli.options import Json, command, fill, print_json, takes
from calibadv.evaluation.index_text import audit_table, gaps, recall_table
from calibadv.evaluation.recall import RecallConfig
from calibadv.io.terminal import text_table
from calibadv.retrieval.server.config import BackendConfig
from calibadv.runs.index_quality import corpus_coverage, index_recall
from calibadv.runs.progress import progress_bars

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
    places = {name: options[name] for name in PLACES}
    config = fill(RecallConfig, options | {"ks": tuple(sorted(set(options["ks"])))})
    with progress_bars() as progress:
        found = index_recall(index, questions, config=config, progress=progress, **places)
    if json:
        print_json(found.record)
    else:
        print(text_table(*recall_table(found.rows, ks=config.ks)))


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
    with progress_bars() as progress:
        found = corpus_coverage(index, questions, k=k, progress=progress, **options)
    if json:
        print_json(found.record)
        return
    print(text_table(*audit_table(found.rows, k=k)))
    print(f"\n{gaps(found.rows)}\n\n{found.num_documents:,} documents read in {found.seconds:.1f} s")
