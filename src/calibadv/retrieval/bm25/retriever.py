"""Searching a BM25 index.

A query is a bag of words joined by "or"; nothing in it is syntax. Lucene's BM25 (k1 = 1.2, b = 0.75) over title and
text together, document lengths rounded to one byte as there. Ties go to the document that comes first in the corpus:
equal queries give equal hits, however many threads built the index.

A query without a known word (empty, stop words only, never seen) finds nothing: its hit list is empty. That is a
result, not a failure; an index never invents documents to fill ``k``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from calibadv.errors import CalibAdvError, ConfigError, DataError, RetrieverError
from calibadv.retrieval.base import check_search
from calibadv.retrieval.bm25.analysis import ANALYSIS, BM25Config, import_tantivy, make_analyzer, normalise
from calibadv.retrieval.bm25.build import (
    ENGINE_FOLDER,
    ROW,
    TEXT,
    build_bm25,
    fill,
    make_manifest,
)
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.index.folder import FileList, check_new_folder, corpus_of, corpus_place
from calibadv.retrieval.index.manifest import MANIFEST, IndexManifest
from calibadv.retrieval.index.row_search import RowHits, RowRetriever
from calibadv.trajectory import Document

MAX_WORDS = 1024
"""Different words of a query that are searched, the first ones; a longer query is cut, not refused."""
_TIES = 16
"""Extra hits asked for when the index has several segments, to see where the equal scores at the cut end."""
_LARGE_K = 1000
_LOCK = ".tantivy-meta.lock"
"""The file that the engine locks when it opens an index."""
_WORTH_THREADS = 100_000
"""Documents from which on the queries of one call are shared among threads."""


class BM25Retriever(RowRetriever):
    """Searches a corpus by words. Safe to call from several threads; the engine works without the interpreter's lock.

    >>> retriever = BM25Retriever.from_documents([
    ...     Document(id="1", title="Ada Lovelace", text="wrote the first program"),
    ...     Document(id="2", title="Charles Babbage", text="designed the analytical engine"),
    ... ])
    >>> [[hit.document.id for hit in hits] for hits in retriever.search(["who designed an engine", "zebra"], 2)]
    [['2'], []]
    """

    def __init__(self, index: Any, *, corpus: Corpus, manifest: IndexManifest, threads: int | None = None) -> None:
        super().__init__(corpus, index_manifest=manifest)
        self.config = BM25Config(stop_words=manifest.parameters["stop_words"])
        self.threads = threads if threads is not None else min(os.cpu_count() or 1, 8)
        """How many queries of one call are searched at the same time (large corpora only)."""
        self._tantivy = import_tantivy()
        self._analyzer = make_analyzer(self.config)
        self._schema = index.schema
        self._searcher = index.searcher()

    @classmethod
    def from_documents(cls, documents: Iterable[Document], *, config: BM25Config | None = None) -> BM25Retriever:
        """Index documents in memory: for corpora of some ten thousand passages; `build_bm25` is for larger ones."""
        config = config or BM25Config()
        corpus = documents if isinstance(documents, Corpus) else Corpus.from_documents(documents)
        index = fill(corpus, path=None, config=config)
        return cls(index, corpus=corpus, manifest=make_manifest(corpus, config=config, place=""))

    @classmethod
    def open(cls, index_dir: Path | str, *, corpus: Corpus | None = None, threads: int | None = None) -> BM25Retriever:
        """Open what `build_bm25` wrote, memory-mapped; ``corpus`` where it is not at the manifest's place."""
        index_dir = Path(index_dir)
        manifest = read_manifest(index_dir)
        corpus = corpus_of(index_dir, manifest, corpus=corpus)
        index = open_engine(index_dir, num_documents=manifest.num_documents)
        return cls(index, corpus=corpus, manifest=manifest, threads=threads)

    @classmethod
    def open_or_build(cls, corpus: Corpus, *, index_dir: Path | str, config: BM25Config | None = None) -> BM25Retriever:
        """Open the index in ``index_dir``, or build it there first; an index of anything else is an error."""
        index_dir, config = Path(index_dir), config or BM25Config()
        if not (index_dir / MANIFEST).exists():
            check_new_folder(index_dir)
            try:
                build_bm25(corpus, out=index_dir, config=config)
            except (OSError, ConfigError):
                if not (index_dir / MANIFEST).exists():  # else another process was faster
                    raise
        found = read_manifest(index_dir)
        wanted = make_manifest(corpus, config=config, place=corpus_place(corpus, index_dir))
        for name in ("corpus_sha256", "parameters"):
            there, asked = getattr(found, name), getattr(wanted, name)
            if there != asked:
                raise ConfigError(
                    f"retrieval.index_dir {index_dir} holds another index: its {name} is {there}, not {asked}; remove "
                    "that folder or name another one"
                )
        return cls.open(index_dir, corpus=corpus)

    @property
    def shares_queries(self) -> bool:
        """Whether the queries of one call are shared among threads; else they are searched one after the other."""
        return self.threads > 1 and len(self.corpus) >= _WORTH_THREADS

    def search_rows(self, queries: Sequence[str], k: int) -> list[RowHits]:
        """As `search`, in rows; only documents that share a word with the query."""
        check_search(queries, k)
        with damage_reported(self.corpus.name):
            if len(queries) < 2 or not self.shares_queries:
                return [self._search_one(query, k) for query in queries]
            with ThreadPoolExecutor(min(self.threads, len(queries))) as pool:
                return list(pool.map(lambda query: self._search_one(query, k), queries))

    def _search_one(self, query: str, k: int) -> RowHits:
        words = Counter(self._analyzer.analyze(normalise(query)))
        if not words:
            return []
        return self._best_rows(list(islice(words.items(), MAX_WORDS)), k)

    def _best_rows(self, clauses: Sequence[tuple[str, int]], k: int) -> RowHits:
        """The ``k`` best rows, equal scores in row order."""
        search, most = self._query(clauses), self._most_hits(clauses, k)
        # One segment gives ties in row order. With more of them, look past the cut for documents that tie with the k-th
        # and come before it in the corpus.
        several = self._searcher.num_segments > 1
        limit = min(k + _TIES, most) if several else min(k, most)
        while True:
            hits = self._searcher.search(search, limit, count=False).hits
            if not several or len(hits) < limit or limit >= most or hits[-1][0] < hits[k - 1][0]:
                break
            limit = min(4 * limit, most)
        rows = self._searcher.fast_field_values(ROW, [address for _, address in hits])
        found = zip(rows, (score for score, _ in hits), strict=True)
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]

    def _most_hits(self, words: Sequence[tuple[str, int]], k: int) -> int:
        """No search can find more; an enormous k must not reserve memory for what is not there."""
        if k <= _LARGE_K:
            return len(self.corpus)
        found = sum(self._searcher.doc_freq(TEXT, word) for word, _ in words)
        return max(1, min(int(found), len(self.corpus)))

    def _query(self, words: Iterable[tuple[str, int]]) -> Any:
        """Any of the words; one that the query repeats counts as often."""
        tantivy, clauses = self._tantivy, []
        for word, count in words:
            term = tantivy.Query.term_query(self._schema, TEXT, word, index_option="freq")
            term = term if count == 1 else tantivy.Query.boost_query(term, float(count))
            clauses.append((tantivy.Occur.Should, term))
        return tantivy.Query.boolean_query(clauses)


def read_manifest(index_dir: Path) -> IndexManifest:
    """The manifest of a BM25 index that this version can search."""
    manifest = IndexManifest.read(index_dir)
    if manifest.method != "bm25":
        raise DataError(f"{index_dir} is a {manifest.method} index, not a BM25 index; open it as what it is")
    stop_words = manifest.parameters.get("stop_words")
    if manifest.parameters != {"stop_words": stop_words, "analysis": ANALYSIS} or stop_words not in ("english", "none"):
        raise DataError(f"{index_dir}: built by other rules ({dict(manifest.parameters)}); build the index again")
    return manifest


def open_engine(index_dir: Path, *, num_documents: int) -> Any:
    """tantivy's index in ``index_dir``, after a look at the sizes of its files."""
    tantivy = import_tantivy()
    files = FileList.read(index_dir)
    files.check_sizes(index_dir)
    files.check_readable(index_dir)
    try:
        with damage_reported(str(index_dir)), writable(index_dir / ENGINE_FOLDER) as folder:
            index = tantivy.Index.open(str(folder))
            names_fit = index.searcher().num_docs == num_documents
    except RetrieverError as error:
        raise DataError(f"{index_dir}: broken index ({error.__cause__}); build it again") from error
    if not names_fit:
        raise DataError(
            f"{index_dir}: the index does not hold the {num_documents:,} documents it announces; build it again"
        )
    return index


@contextmanager
def writable(folder: Path) -> Iterator[Path]:
    """A folder that the engine can open: it wants to lock even what it only reads.

    Where it may not (a read-only disk, the index of another user), a folder of links to the files takes the place of
    ``folder`` until they are mapped.
    """
    lock = folder / _LOCK
    if os.access(lock if lock.exists() else folder, os.W_OK):
        yield folder
        return
    with TemporaryDirectory(prefix="calibadv-bm25-") as name:
        for path in folder.iterdir():
            if path.suffix != lock.suffix:
                Path(name, path.name).symlink_to(path.absolute())
        yield Path(name)


@contextmanager
def damage_reported(where: str) -> Iterator[None]:
    """The engine's errors as `RetrieverError`; so are its panics, which damaged files cause."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, CalibAdvError):
            raise
        raise RetrieverError(f"{where}: the BM25 engine failed: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the engine's own, not derived from Exception
            raise
        raise RetrieverError(
            f"{where}: the BM25 engine failed: {error}; check the index: calibadv index verify"
        ) from error
