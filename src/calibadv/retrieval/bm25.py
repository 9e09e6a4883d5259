"""BM25 over a corpus in memory: bm25s builds the weights, NumPy searches them.

Lucene's BM25 over title and text together: lower case, words of two characters or more, English stop words left out (an
option), no stemmer. Ties go to the document that comes first in the corpus, so equal queries give equal hits.

A query without a known word (empty, stop words only, never seen) finds nothing: its hit list is empty. That is a
result, not a failure; an index never invents documents to fill ``k``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus import Corpus
from calibadv.trajectory import Document

INDEX_FORMAT = 1
MANIFEST = "manifest.json"
DOCUMENTS = "documents.jsonl"
_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class BM25Config:
    """How documents are weighed."""

    k1: float = 1.5
    """How fast repeated words stop counting; >= 0."""
    b: float = 0.75
    """How much long documents are held back; 0 to 1."""
    stop_words: Literal["english", "none"] = "english"
    """Words left out of documents and queries."""

    def __post_init__(self) -> None:
        if not self.k1 >= 0:
            raise ConfigError(f"retrieval.bm25.k1 must be >= 0, got {self.k1}")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"retrieval.bm25.b must be between 0 and 1, got {self.b}")
        if self.stop_words not in ("english", "none"):
            raise ConfigError(f'retrieval.bm25.stop_words must be "english" or "none", got {self.stop_words!r}')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Postings:
    """Per word the rows of its documents and their weights, one word after the other."""

    words: dict[str, int]
    starts: NDArray[np.integer[Any]]  # [num_words + 1]
    rows: NDArray[np.integer[Any]]  # [num_postings], ascending within a word
    weights: NDArray[np.float32]  # [num_postings]


class BM25Retriever:
    """Searches a corpus by words. Safe to call from several threads: a search writes nothing that is shared.

    >>> retriever = BM25Retriever.from_documents([
    ...     Document(id="1", title="Ada Lovelace", text="wrote the first program"),
    ...     Document(id="2", title="Charles Babbage", text="designed the analytical engine"),
    ... ])
    >>> [[hit.document.id for hit in hits] for hits in retriever.search(["who designed an engine", "zebra"], 2)]
    [['2'], []]
    """

    def __init__(self, corpus: Corpus, *, postings: _Postings, stop_words: frozenset[str], config: BM25Config) -> None:
        self.corpus = corpus
        self.config = config
        self._postings = postings
        self._stop_words = stop_words

    @classmethod
    def from_documents(cls, documents: Iterable[Document], *, config: BM25Config | None = None) -> BM25Retriever:
        """Index documents in memory (about 5 s for 40,000 passages)."""
        config = config or BM25Config()
        corpus = documents if isinstance(documents, Corpus) else Corpus.from_documents(documents)
        bm25s = _import_bm25s()
        stop_words = frozenset(bm25s.stopwords.STOPWORDS_EN) if config.stop_words == "english" else frozenset()
        postings = _build(bm25s, corpus, stop_words=stop_words, config=config)
        return cls(corpus, postings=postings, stop_words=stop_words, config=config)

    @classmethod
    def open(cls, index_dir: Path | str) -> BM25Retriever:
        """Open what `save` wrote; the weights are memory-mapped and bm25s is not needed."""
        index_dir = Path(index_dir)
        manifest = read_manifest(index_dir)
        corpus = Corpus.read(index_dir / DOCUMENTS)
        if corpus.sha256 != manifest["corpus_sha256"]:
            raise DataError(f"{index_dir}: the documents are not those that were indexed; build the index again")
        try:
            words = json.loads((index_dir / "words.json").read_text(encoding="utf-8"))
            arrays = {name: np.load(index_dir / f"{name}.npy", mmap_mode="r") for name in ("starts", "rows", "weights")}
        except (OSError, ValueError) as error:
            raise DataError(f"{index_dir}: broken index ({error}); build it again") from error
        postings = _Postings(words={word: number for number, word in enumerate(words)}, **arrays)
        _check_postings(postings, num_documents=len(corpus), where=index_dir)
        config = BM25Config(**manifest["parameters"])
        return cls(corpus, postings=postings, stop_words=frozenset(manifest["stop_words"]), config=config)

    @classmethod
    def open_or_build(cls, corpus: Corpus, *, index_dir: Path | str, config: BM25Config | None = None) -> BM25Retriever:
        """Open the index in ``index_dir``, or build and save it there; an index of anything else is an error."""
        index_dir, config = Path(index_dir), config or BM25Config()
        if not (index_dir / MANIFEST).exists():
            retriever = cls.from_documents(corpus, config=config)
            try:
                retriever.save(index_dir)
            except OSError:
                if not (index_dir / MANIFEST).exists():  # else another process was faster
                    raise
            return retriever
        manifest = read_manifest(index_dir)
        wanted = {"corpus_sha256": corpus.sha256, "parameters": asdict(config)}
        for key, value in wanted.items():
            if manifest[key] != value:
                raise ConfigError(
                    f"retrieval.index_dir {index_dir} holds another index: its {key} is {manifest[key]}, not {value}; "
                    "remove that folder or name another one"
                )
        return cls.open(index_dir)

    def save(self, index_dir: Path | str) -> None:
        """Write the index and its documents to a new or empty folder, all or nothing, without pickle."""
        index_dir = Path(index_dir)
        if index_dir.exists() and (not index_dir.is_dir() or any(index_dir.iterdir())):
            raise ConfigError(f"retrieval.index_dir {index_dir} exists and is not empty; name a new folder")
        partial = index_dir.with_name(f"{index_dir.name}.partial-{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            self.corpus.write(partial / DOCUMENTS)
            (partial / "words.json").write_text(json.dumps(list(self._postings.words), ensure_ascii=False), "utf-8")
            for name in ("starts", "rows", "weights"):
                np.save(partial / f"{name}.npy", getattr(self._postings, name), allow_pickle=False)
            (partial / MANIFEST).write_text(json.dumps(self.manifest(), indent=1, ensure_ascii=False), "utf-8")
            partial.replace(index_dir)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def manifest(self) -> dict[str, Any]:
        """What identifies this index: checked at load, and recorded with evaluations."""
        return {
            "format": INDEX_FORMAT,
            "method": "bm25",
            "corpus_sha256": self.corpus.sha256,
            "num_documents": len(self.corpus),
            "parameters": asdict(self.config),
            "stop_words": sorted(self._stop_words),
        }

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits a query, best first; only documents that share a word with the query."""
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        return [self._search_one(query, k) for query in queries]

    def _search_one(self, query: str, k: int) -> list[Hit]:
        postings = self._postings
        numbers = [postings.words[w] for w in _words(query, self._stop_words) if w in postings.words]
        scores = np.zeros(len(self.corpus), dtype=np.float32)
        for number in numbers:
            span = slice(postings.starts[number], postings.starts[number + 1])
            scores[postings.rows[span]] += postings.weights[span]  # a document occurs once per word
        return [Hit(self.corpus[row], float(scores[row])) for row in _best_rows(scores, k)]


def read_manifest(index_dir: Path) -> dict[str, Any]:
    """The manifest of an index folder; DataError when the folder is something else."""
    path = index_dir / MANIFEST
    if not path.is_file():
        raise DataError(f"{index_dir}: no {MANIFEST}, so this is not an index; build one first")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known = {"format", "method", "corpus_sha256", "parameters", "stop_words"} <= manifest.keys()
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a manifest ({error}); build the index again") from error
    if not known or manifest["method"] != "bm25" or manifest["format"] != INDEX_FORMAT:
        raise DataError(f"{path}: not a BM25 index of format {INDEX_FORMAT}; build it again")
    return dict(manifest)


def _best_rows(scores: NDArray[np.float32], k: int) -> list[int]:
    """The rows of the ``k`` highest positive scores, best first, equal scores in row order."""
    if k < len(scores):
        threshold = np.partition(scores, -k)[-k]
        rows = np.flatnonzero((scores >= threshold) & (scores > 0))
    else:
        rows = np.flatnonzero(scores > 0)
    order = np.argsort(-scores[rows], kind="stable")
    return [int(row) for row in rows[order[:k]]]


def _words(text: str, stop_words: frozenset[str]) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in stop_words]


def _build(bm25s: Any, corpus: Corpus, *, stop_words: frozenset[str], config: BM25Config) -> _Postings:
    words: dict[str, int] = {}
    numbers_per_document = [
        [words.setdefault(word, len(words)) for word in _words(f"{document.title}\n{document.text}", stop_words)]
        for document in corpus
    ]
    if not words:
        raise DataError(f"{corpus.name}: no words to index; every document is made of stop words or single characters")
    engine = bm25s.BM25(k1=config.k1, b=config.b, method="lucene", backend="numpy", csc_backend="numpy")
    engine.index((numbers_per_document, dict(words)), create_empty_token=False, show_progress=False)
    return _Postings(
        words=words,
        starts=engine.scores["indptr"],
        rows=engine.scores["indices"],
        weights=engine.scores["data"],
    )


def _check_postings(postings: _Postings, *, num_documents: int, where: Path) -> None:
    starts, rows = postings.starts, postings.rows
    fits = (
        len(starts) == len(postings.words) + 1
        and len(rows) == len(postings.weights) == starts[-1]
        and rows.min(initial=0) >= 0
        and rows.max(initial=0) < num_documents
    )
    if not fits:
        raise DataError(f"{where}: the index files do not belong together; build the index again")


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError("building a BM25 index needs bm25s: pip install 'calibadv[retrieval]'") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import turns its own debug messages on
    return bm25s
