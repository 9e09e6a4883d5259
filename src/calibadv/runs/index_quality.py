"""What an index finds of what questions need (`index_recall`), and what its corpus has at all (`corpus_coverage`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibadv.data.questions import check_questions, load_questions
from calibadv.errors import ConfigError
from calibadv.evaluation.coverage import Coverage, measure_coverage, scan_corpus
from calibadv.evaluation.recall import Recall, RecallConfig, find_evidence, measure_recall
from calibadv.retrieval.client.retriever import RemoteRetriever
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.index.manifest import MANIFEST
from calibadv.retrieval.open import open_index
from calibadv.runs.progress import Tell, about
from calibadv.trajectory import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecall:
    """The recall of an index."""

    rows: list[Recall]
    """One a data set, then all together."""
    record: dict[str, Any]
    """Everything, with what identifies the index, as plain values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCoverage:
    """How many questions a corpus can answer at all."""

    rows: list[Coverage]
    num_documents: int
    seconds: float
    record: dict[str, Any]


def index_recall(
    index: str,
    questions: Sequence[Path],
    *,
    config: RecallConfig | None = None,
    progress: Tell | None = None,
    **places: Any,
) -> IndexRecall:
    """Measure the recall of an index, or of a running server, on questions with golden answers.

    Args:
        index: Folder of an index, or the address of a server.
        questions: Files of questions.
        config: What is measured.
        progress: Told how far it is.
        places: ``corpus``, ``encoder``, ``device`` and ``search_device`` of `calibadv.retrieval.open.open_index`.
    """
    asked = read_questions(questions)
    with opened_target(index, **places) as retriever:
        start = time.perf_counter()
        measured = measure_recall(
            asked, retriever=retriever, config=config or RecallConfig(), progress=about(progress, "questions")
        )
        rows, manifest = list(measured), retriever.manifest()
    record = {
        "index": manifest,
        "questions": [str(path) for path in questions],
        "seconds": round(time.perf_counter() - start, 2),
        "recall": {row.name: asdict(row) for row in rows},
    }
    return IndexRecall(rows=rows, record=record)


def corpus_coverage(
    index: str, questions: Sequence[Path], *, k: int = 20, progress: Tell | None = None, **places: Any
) -> CorpusCoverage:
    """Find questions whose answer or supporting articles are not in a corpus, or not among the first k hits.

    Args:
        index: Folder of an index, or of a corpus alone.
        questions: Files of questions.
        k: How many hits count.
        progress: Told how far it is.
        places: As for `index_recall`.
    """
    asked = read_questions(questions)
    retriever, corpus = open_index_or_corpus(index, **places)
    found = None
    if retriever is not None:
        found = find_evidence(asked, retriever=retriever, k=k, progress=about(progress, "questions"))
    start = time.perf_counter()
    scan = scan_corpus(asked, corpus=corpus, progress=about(progress, "documents"))
    seconds = time.perf_counter() - start
    rows = list(measure_coverage(asked, scan=scan, found=found, k=k))
    record = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "index": None if retriever is None else retriever.manifest(),
        "k": k,
        "num_documents": scan.num_documents,
        "scan_seconds": round(seconds, 2),
        "coverage": {row.name: asdict(row) for row in rows},
    }
    return CorpusCoverage(rows=rows, num_documents=scan.num_documents, seconds=seconds, record=record)


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """All questions of the files; an id may occur once per data set."""
    questions = [question for path in paths for question in load_questions(path)]
    check_questions(questions)
    return questions


@contextmanager
def opened_target(index: str, **places: Any) -> Iterator[Any]:
    """The index in a folder, or the server at an address; its connections are closed at the end."""
    if not index.startswith(("http://", "https://")):
        yield open_index(index, **places)
        return
    with closing(RemoteRetriever(index)) as retriever:
        retriever.wait_until_ready(0)
        yield retriever


def open_index_or_corpus(index: str, **places: Any) -> tuple[Any, Corpus]:
    """The index with its corpus; no index when a corpus alone was named."""
    if index.startswith(("http://", "https://")):
        raise ConfigError(f"audit reads every document, so it needs the folder of the index or corpus, not {index}")
    path = Path(index)
    if path.is_file() or ((path / "corpus.json").is_file() and not (path / MANIFEST).is_file()):
        return None, read_corpus(path)
    retriever = open_index(index, **places)
    return retriever, retriever.corpus
