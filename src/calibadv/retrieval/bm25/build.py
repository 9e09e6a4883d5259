"""Making a BM25 index: documents go through the engine's own threads, in bounded memory.

The index keeps words and row numbers; the documents' text stays in the corpus and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from calibadv.errors import CalibAdvError, ConfigError, DataError
from calibadv.retrieval.bm25.analysis import ANALYSIS, BM25Config, import_tantivy, make_analyzer, text_of
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.index.folder import FILES, FileList, corpus_place, whole_folder
from calibadv.retrieval.index.manifest import IndexManifest
from calibadv.version import __version__

Progress = Callable[[int, int], None]
"""Called with (documents done, documents in all)."""
ENGINE_FOLDER = "tantivy"
TEXT, ROW = "text", "row"
_ANALYZER = "calibadv"
_DOCUMENTS_AT_ONCE = 1024
_WORTH_A_THREAD = 50_000
"""Documents for each further thread; fewer would only leave more segments to search."""
_LEAST_BYTES = 15_000_000
"""What the engine wants for each of its threads."""
_MOST_BYTES = 1_000_000_000


def build_bm25(
    corpus: Corpus,
    *,
    out: Path | str,
    config: BM25Config | None = None,
    threads: int | None = None,
    memory: int = 256_000_000,
    progress: Progress | None = None,
) -> IndexManifest:
    """Index ``corpus`` into the new folder ``out``, all or nothing.

    ``memory`` bounds the bytes of postings held before they are written; ``threads`` is up to one per CPU when not
    given. Neither changes what is found.
    """
    out, config = Path(out), config or BM25Config()
    threads = threads if threads is not None else min(os.cpu_count() or 1, 8, 1 + len(corpus) // _WORTH_A_THREAD)
    if threads < 1:
        raise ConfigError(f"threads must be >= 1, got {threads}")
    manifest = make_manifest(corpus, config=config, place=corpus_place(corpus, out))
    with whole_folder(out) as partial:
        folder = partial / ENGINE_FOLDER
        folder.mkdir()
        try:
            index = fill(corpus, path=folder, config=config, threads=threads, memory=memory, progress=progress)
        except ValueError as error:
            if isinstance(error, CalibAdvError):
                raise
            raise DataError(f"{out}: the engine cannot write the index there ({error}); is the disk full?") from error
        del index  # its files are complete now
        names = sorted(p.relative_to(partial).as_posix() for p in folder.iterdir() if not p.name.endswith(".lock"))
        FileList.of(partial, names).write(partial)
        for name in names:  # the engine makes some for their owner alone; others may read them as far as the rest
            (partial / name).chmod((partial / FILES).stat().st_mode)
        manifest.write(partial)
    return manifest


def make_manifest(corpus: Corpus, *, config: BM25Config, place: str) -> IndexManifest:
    """The identity of the index of ``corpus`` under ``config``."""
    return IndexManifest(
        method="bm25",
        corpus=place,
        corpus_sha256=corpus.sha256,
        num_documents=len(corpus),
        parameters={**asdict(config), "analysis": ANALYSIS},
        versions={"calibadv": __version__, "tantivy": version("tantivy")},
    )


def fill(
    corpus: Corpus,
    *,
    path: Path | None,
    config: BM25Config,
    threads: int = 1,
    memory: int = _LEAST_BYTES,
    progress: Progress | None = None,
) -> Any:
    """A tantivy index of all documents, in the folder ``path`` or in memory."""
    tantivy = import_tantivy()
    schema = (
        tantivy.SchemaBuilder()
        .add_text_field(TEXT, tokenizer_name=_ANALYZER, index_option="freq")
        .add_unsigned_field(ROW, fast=True)
        .build()
    )
    # Sorted by row, whichever thread wrote a document: ties inside a segment then come in row order.
    index = tantivy.Index(schema, path=None if path is None else str(path), sort_by_field=ROW)
    index.register_tokenizer(_ANALYZER, make_analyzer(config))
    writer = index.writer(min(max(memory // threads, _LEAST_BYTES), _MOST_BYTES) * threads, threads)
    try:
        row = _add_all(writer, corpus, progress=progress)
    except BaseException:
        with suppress(ValueError):  # it may be dead already
            writer.rollback()
            writer.wait_merging_threads()  # or its threads would go on writing into a folder that is being removed
        raise
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    if row != len(corpus):
        raise DataError(
            f"{corpus.name}: {row:,} documents could be read, {len(corpus):,} were announced; import it again"
        )
    return index


def _add_all(writer: Any, corpus: Corpus, *, progress: Progress | None) -> int:
    document_of, row = import_tantivy().Document, 0
    for batch in corpus.iter_batches(_DOCUMENTS_AT_ONCE):
        for document in batch:
            entry = document_of()
            entry.add_text(TEXT, text_of(document))
            entry.add_unsigned(ROW, row)
            writer.add_document(entry)
            row += 1
        if progress is not None:
            progress(row, len(corpus))
    return row
