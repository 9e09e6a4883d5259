"""Importing: sources to a corpus folder as a stream, in bounded memory, with an account of what was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calibadv.errors import DataError
from calibadv.retrieval.corpus.id_index import hash_ids
from calibadv.retrieval.corpus.importing.chunking import passages
from calibadv.retrieval.corpus.importing.config import ImportConfig
from calibadv.retrieval.corpus.importing.fields import FieldReader
from calibadv.retrieval.corpus.importing.hash_runs import HashRuns
from calibadv.retrieval.corpus.importing.jsonl import read_rows
from calibadv.retrieval.corpus.importing.parquet import read_parquet
from calibadv.retrieval.corpus.importing.report import ImportReport, Tally, encodable
from calibadv.retrieval.corpus.importing.seen_ids import SeenIds
from calibadv.retrieval.corpus.importing.sources import SourceFile, Sources, find_sources
from calibadv.retrieval.corpus.importing.text_files import read_text_file
from calibadv.retrieval.corpus.importing.writer import CorpusWriter
from calibadv.retrieval.corpus.row_errors import RowError, duplicate, find_row_error
from calibadv.trajectory import Document

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes of all sources."""
_DOCUMENTS_AT_ONCE = 1024


def import_corpus(
    sources: Sequence[Path | str],
    *,
    out: Path | str,
    config: ImportConfig | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Make the corpus folder ``out`` from files, folders and data sets of the Hugging Face hub.

    Rows that cannot be used are left out, counted and named in the report, or refused with ``config.strict``. A source
    that breaks off in the middle is always an error. When anything fails, no folder is left.
    """
    config, writer = config or ImportConfig(), CorpusWriter(Path(out))
    found = find_sources(sources)
    with writer:
        return _Import(found, writer=writer, config=config, progress=progress).run()


class _Import:
    def __init__(
        self, sources: Sources, *, writer: CorpusWriter, config: ImportConfig, progress: Progress | None
    ) -> None:
        self.sources = sources
        self.writer = writer
        self.config = config
        self.progress = progress
        self.fields = FieldReader(config, may_number=True)
        self.tally = Tally()
        is_cut = config.chunk_words is not None
        document_ids = HashRuns(writer.partial, name="documents")
        self.seen = SeenIds(document_ids, stored_id=self._stored_id, may_number=not is_cut)
        self.ids = HashRuns(writer.partial, name="passages") if is_cut else document_ids
        self.waiting: list[tuple[str, Document]] = []
        self.num_rows = 0
        self.num_accepted = 0

    def run(self) -> ImportReport:
        """Read everything, write everything."""
        done = 0
        for source in self.sources.files:
            self._read(source, done=done)
            done += source.size
        self._write_waiting()
        if not self.writer.num_documents:
            raise DataError(self._why_empty())
        report = ImportReport(
            num_documents=self.writer.num_documents,
            num_rows=self.num_rows,
            num_files=len(self.sources.files),
            config=asdict(self.config),
            counts=dict(self.tally.counts),
            left_out=tuple(self.tally.left_out),
            notes=tuple(map(encodable, (*self.sources.notes, *self._notes()))),
            sha256=self.writer.sha256,
        )
        ids = None if self.seen.numbered else self.ids
        self.writer.finish(ids, source=tuple(map(encodable, self.sources.names)), report=report)
        return report

    def _read(self, source: SourceFile, *, done: int) -> None:
        def at(position: int) -> None:
            if self.progress is not None:
                self.progress(done + position, self.sources.size)

        for line, row in _rows(source, at=at, fields=self.fields):
            where = f"{source.path}:{line}"
            self.num_rows += 1
            item = row if isinstance(row, RowError | Document) else self.fields.document(row, number=self.num_accepted)
            if isinstance(item, Document):
                item = find_row_error(item) or item
            if isinstance(item, RowError):
                self._leave_out(item, where=where)
                continue
            self.num_accepted += 1
            self.waiting.append((where, item))
            if len(self.waiting) == _DOCUMENTS_AT_ONCE:
                self._write_waiting()
        at(source.size)

    def _write_waiting(self) -> None:
        waiting, self.waiting = self.waiting, []
        fresh = self.seen.new([document.id for _, document in waiting])
        accepted, rows = [], []
        for (where, document), is_new in zip(waiting, fresh, strict=True):
            if not is_new:
                self._leave_out(duplicate(document.id), where=where)
                continue
            accepted.append(document.id)
            rows.append(self.writer.num_documents)
            self._write(document)
        self.seen.add(accepted, rows)

    def _write(self, document: Document) -> None:
        words = self.config.chunk_words
        if words is None:
            self.writer.add(document)
            return
        first_row, ids = self.writer.num_documents, []
        for passage in passages(document, words=words, overlap=self.config.chunk_overlap):
            self.writer.add(passage)
            ids.append(passage.id)
        self.ids.add(hash_ids(ids), first_row)

    def _leave_out(self, error: RowError, *, where: str) -> None:
        if self.config.strict:
            self._write_waiting()  # a duplicate that came earlier is the first error
            raise DataError(f"{where}: {error.message}")
        self.tally.add(error, where=where)

    def _stored_id(self, row: int) -> str:
        """The document id in a row: that of its passage without the passage's number."""
        stored = self.writer.stored_id(row)
        return stored if self.config.chunk_words is None else stored.rpartition("#")[0]

    def _why_empty(self) -> str:
        message = f"{', '.join(self.sources.names)}: no documents"
        if not self.tally.left_out:
            return f"{message}; the source is empty"
        first = self.tally.left_out[0]
        return f"{message} ({self.num_rows:,} rows read, all left out; the first: {first.where}: {first.message})"

    def _notes(self) -> Iterator[str]:
        if self.fields.numbered:
            yield (
                f'the first row has no "id" (its fields: {", ".join(self.fields.first_fields or ())}), so documents '
                "are numbered from 0; --id-field names another field"
            )


def _rows(source: SourceFile, *, at: Callable[[int], None], fields: FieldReader) -> Iterator[tuple[int, Any]]:
    match source.kind:
        case "jsonl":
            return read_rows(source.path, at=at)
        case "parquet":
            return read_parquet(source.path, at=at, columns_of=fields.columns)
        case "text":
            return iter([read_text_file(source.path, document_id=source.document_id)])
