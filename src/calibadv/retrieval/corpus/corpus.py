"""The corpus: documents in a folder, memory-mapped, whatever their number; or a few of them in memory.

`calibadv corpus import` makes the folder (`calibadv.retrieval.corpus.importing`): ``documents.arrow`` has the
documents, ``ids.bin`` finds ids, ``corpus.json`` says what it is. Opening reads a few kilobytes; documents are read
when they are asked for. A corpus in memory is laid out the same way, and has the same digest as the folder made of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import write_json_lines
from calibadv.io.mapped_file import MappedFile
from calibadv.retrieval.corpus.id_index import IDS, IdIndex, row_number
from calibadv.retrieval.corpus.manifest import DOCUMENTS, CorpusManifest
from calibadv.retrieval.corpus.row_errors import duplicate, find_row_error
from calibadv.retrieval.corpus.table import DocumentTable, table_of
from calibadv.trajectory import Document


class Corpus(Sequence[Document]):
    """An ordered set of documents with unique ids. Safe for reading from several threads.

    >>> corpus = Corpus.from_documents([Document(id="7", title="Ada", text="Ada wrote programs.")])
    >>> len(corpus), corpus[0].title, corpus.get("7").text
    (1, 'Ada', 'Ada wrote programs.')
    """

    def __init__(
        self,
        table: DocumentTable,
        *,
        ids: IdIndex | None,
        name: str,
        path: Path | None = None,
        manifest: CorpusManifest | None = None,
    ) -> None:
        self.name = name
        """How messages call it."""
        self.path = path
        """Its folder; None in memory."""
        self.manifest = manifest
        """What its folder says about it; None in memory."""
        self._table = table
        self._ids = ids
        self._sha256 = None if manifest is None else manifest.sha256

    @classmethod
    def open(cls, corpus_dir: Path | str) -> Corpus:
        """Open the folder that an import wrote; takes as long for 21 million documents as for ten."""
        corpus_dir = Path(corpus_dir)
        manifest = CorpusManifest.read(corpus_dir)
        table = DocumentTable(
            MappedFile(corpus_dir / DOCUMENTS),
            num_documents=manifest.num_documents,
            rows_per_batch=manifest.rows_per_batch,
            name=str(corpus_dir / DOCUMENTS),
        )
        ids = None
        if manifest.ids == "hashed":
            ids = IdIndex.open(corpus_dir / IDS, num_documents=manifest.num_documents)
        return cls(table, ids=ids, name=str(corpus_dir), path=corpus_dir, manifest=manifest)

    @classmethod
    def from_documents(cls, documents: Iterable[Document], *, name: str = "corpus") -> Corpus:
        """A corpus in memory."""
        placed = ((f"{name}: document {number}", document) for number, document in enumerate(documents, start=1))
        return cls.in_memory(placed, name=name)

    @classmethod
    def in_memory(cls, placed: Iterable[tuple[str, Document]], *, name: str) -> Corpus:
        """A corpus in memory from documents with their places (file and line), which messages name."""
        ids: dict[str, None] = {}  # a set in row order

        def checked() -> Iterator[Document]:
            for where, document in placed:
                error = duplicate(document.id) if document.id in ids else find_row_error(document)
                if error is not None:
                    raise DataError(f"{where}: {error.message}")
                ids[document.id] = None
                yield document

        table = table_of(checked(), name=name)
        if not ids:
            raise DataError(f"{name}: no documents; a corpus needs at least one")
        return cls(table, ids=IdIndex.of(ids), name=name)

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        if isinstance(index, slice):
            return tuple(self.take(range(*index.indices(len(self)))))
        return self._table.document(self._row(index))

    def __len__(self) -> int:
        return self._table.num_documents

    def __iter__(self) -> Iterator[Document]:
        return self._table.span(0, len(self))

    def take(self, rows: Iterable[int]) -> list[Document]:
        """The documents of these rows, in this order; a row may come more than once."""
        wanted = [self._row(row) for row in rows]
        documents = {row: self._table.document(row) for row in sorted(set(wanted))}  # neighbours share pages
        return [documents[row] for row in wanted]

    def iter_batches(self, size: int, start: int = 0) -> Iterator[list[Document]]:
        """All documents from row ``start``, in lists of ``size`` (the last may be shorter)."""
        if size < 1:
            raise ConfigError(f"the size of a batch must be >= 1, got {size}")
        for first in range(start, len(self), size):
            yield list(self._table.span(first, min(first + size, len(self))))

    def get(self, document_id: str) -> Document:
        """The document with this id; DataError when there is none."""
        row = self.row_of(document_id)
        if row is None:
            raise DataError(f"{self.name}: no document with id {document_id!r}")
        return self._table.document(row)

    def row_of(self, document_id: str) -> int | None:
        """The row of the document with this id; None when there is none."""
        if self._ids is None:
            return row_number(document_id, num_documents=len(self))
        return next((row for row in self._ids.candidates(document_id) if self._table.id(row) == document_id), None)

    @property
    def sha256(self) -> str:
        """Digest of every id, title and text in order; what an index is checked against."""
        if self._sha256 is None:
            digest = CorpusDigest()
            for document in self:
                digest.add(document)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Read everything again: DataError unless files, ids and digest are what the folder says they are.

        ``progress`` gets the number of documents checked and of all.
        """
        for _ in self._table.check():
            pass
        digest, row = CorpusDigest(), 0
        for documents in self.iter_batches(1024):
            for document in documents:
                digest.add(document)
            self._check_ids([document.id for document in documents], first_row=row)
            row += len(documents)
            if progress is not None:
                progress(row, len(self))
        if digest.hexdigest() != self.sha256:
            raise DataError(
                f"{self.name}: the documents are not those that were imported (their digest is "
                f"{digest.hexdigest()[:12]}, not {self.sha256[:12]}); import them again or fetch another copy"
            )

    def write(self, path: Path | str) -> None:
        """Write ``{"id", "title", "text"}`` lines; gzip when the name ends in .gz."""
        rows = ({"id": document.id, "title": document.title, "text": document.text} for document in self)
        write_json_lines(Path(path), rows)

    def _check_ids(self, ids: list[str], *, first_row: int) -> None:
        if self._ids is None:
            wrong = next((first_row + n for n, one in enumerate(ids) if one != str(first_row + n)), None)
        else:
            wrong = self._ids.first_miss(ids, first_row=first_row)
        if wrong is not None:
            raise DataError(f"{self.name}: the id of row {wrong} does not lead there; import the corpus again")

    def _row(self, index: int) -> int:
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name}: row {index} of {len(self):,}")
        return int(row)


class CorpusDigest:
    """The running digest of a corpus."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, document: Document) -> None:
        """One more document."""
        self._digest.update(json.dumps([document.id, document.title, document.text]).encode() + b"\n")

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._digest.hexdigest()


def check_top_k(top_k: int, *, num_documents: int) -> None:
    """Refuse, before a run starts, to ask for more documents than there are.

    >>> check_top_k(0, num_documents=2)
    Traceback (most recent call last):
    calibadv.errors.ConfigError: rollout.top_k must be >= 1, got 0
    """
    if top_k < 1:
        raise ConfigError(f"rollout.top_k must be >= 1, got {top_k}")
    if top_k > num_documents:
        raise ConfigError(
            f"rollout.top_k must be <= the number of documents in the corpus ({num_documents}), got {top_k}; "
            "lower it or use a larger corpus"
        )
