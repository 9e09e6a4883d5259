"""Documents in an Arrow IPC file: three columns of text, in record batches of a fixed number of rows.

Batches of one size make a row's place a division, so opening reads only the file's footer. Strings are cut out of the
columns' own bytes: slices cannot leave a damaged column, where Arrow's scalars would trust its offsets.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from calibadv.errors import DataError
from calibadv.io.mapped_file import MappedFile
from calibadv.io.packages import require_packages
from calibadv.trajectory import Document

COLUMNS = ("id", "title", "text")
ROWS_PER_BATCH = 256
"""A batch's offsets, ids and titles then fit in what the kernel maps at one touch."""
_CACHED_BATCHES = 2048
_MAGIC_BYTES = 8


class _Column(NamedTuple):
    offsets: Any
    """int64, one more than there are rows."""
    data: Any

    def text(self, row: int) -> str:
        return str(self.data[self.offsets[row] : self.offsets[row + 1]], "utf-8")


class DocumentTable:
    """Random access by row. Safe for reading from several threads."""

    def __init__(
        self, source: MappedFile | Any, *, num_documents: int, rows_per_batch: int = ROWS_PER_BATCH, name: str
    ) -> None:
        pa = import_pyarrow()
        self.name = name
        self.num_documents = num_documents
        self.rows_per_batch = rows_per_batch
        self._file = source if isinstance(source, MappedFile) else None
        self._lock = threading.Lock()
        self._columns: dict[int, tuple[_Column, ...]] = {}
        try:
            self._reader = pa.ipc.open_file(pa.py_buffer(source.map if isinstance(source, MappedFile) else source))
            names = self._reader.schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error
        if self._reader.schema != schema():
            raise self._damaged(f"its columns are {names}, not {list(COLUMNS)} as text")
        if self._reader.num_record_batches != -(-num_documents // rows_per_batch):
            raise self._damaged(f"it has {self._reader.num_record_batches} batches for {num_documents:,} documents")

    def document(self, row: int) -> Document:
        """The document in this row, 0 <= row < num_documents."""
        number, inside = divmod(row, self.rows_per_batch)
        document = self._document(self._batch(number), inside)
        if self._file is not None:
            self._file.touched(reads=2, num_bytes=len(document.text))
        return document

    def id(self, row: int) -> str:
        """Its id alone."""
        if row >= self.num_documents:  # rows of ids.bin come from a file
            raise self._damaged(f"row {row:,} of {self.num_documents:,} was asked for; or ids.bin is")
        number, inside = divmod(row, self.rows_per_batch)
        ids = self._batch(number)[0]
        if self._file is not None:
            self._file.touched(reads=1)
        return self._text(ids, inside)

    def span(self, start: int, stop: int) -> Iterator[Document]:
        """The documents of consecutive rows."""
        while start < stop:
            number, inside = divmod(start, self.rows_per_batch)
            columns = self._batch(number)
            num_bytes = 0
            for row in range(inside, min(self.rows_per_batch, inside + stop - start)):
                document = self._document(columns, row)
                num_bytes += len(document.text)
                start += 1
                yield document
            if self._file is not None:
                self._file.touched(reads=1, num_bytes=num_bytes)

    def check(self) -> Iterator[int]:
        """Check every byte batch by batch, yielding the rows done so far; DataError where the file is damaged."""
        pa = import_pyarrow()
        done = 0
        for number in range(self._reader.num_record_batches):
            try:
                with self._lock:
                    batch = self._reader.get_batch(number)
                batch.validate(full=True)
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(f"batch {number}: {error}") from error
            done += batch.num_rows
            if self._file is not None:
                self._file.touched(reads=1, num_bytes=batch.nbytes)
            yield done

    def _document(self, columns: tuple[_Column, ...], row: int) -> Document:
        ids, titles, texts = columns
        return Document(id=self._text(ids, row), title=self._text(titles, row), text=self._text(texts, row))

    def _text(self, column: _Column, row: int) -> str:
        try:
            return column.text(row)
        except (UnicodeDecodeError, IndexError) as error:
            raise self._damaged(str(error)) from error

    def _batch(self, number: int) -> tuple[_Column, ...]:
        columns = self._columns.get(number)
        if columns is None:
            columns = self._read_batch(number)
            if len(self._columns) >= _CACHED_BATCHES:
                self._columns = {}
            self._columns[number] = columns
        return columns

    def _read_batch(self, number: int) -> tuple[_Column, ...]:
        pa = import_pyarrow()
        try:
            with self._lock:
                batch = self._reader.get_batch(number)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(f"batch {number}: {error}") from error
        if batch.num_rows != min(self.rows_per_batch, self.num_documents - number * self.rows_per_batch):
            raise self._damaged(f"batch {number} has {batch.num_rows} rows")
        columns = []
        for column in batch.columns:
            _, offsets, data = column.buffers()
            columns.append(_Column(memoryview(offsets).cast("b").cast("q"), memoryview(data) if data else b""))
        return tuple(columns)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self.name}: damaged ({reason}); import the corpus again or fetch another copy")


class TableWriter:
    """Writes documents as they come; holds one batch."""

    def __init__(self, sink: Any) -> None:
        pa = import_pyarrow()
        self._pa = pa
        self._sink = sink
        self._writer = pa.ipc.new_file(sink, schema())
        self._rows: list[Document] = []
        self._places = array("Q")  # where each batch starts in the sink
        self._last_read: tuple[int, Any] = (-1, None)
        self.num_documents = 0

    def add(self, document: Document) -> None:
        """One more row; its strings must be encodable."""
        self._rows.append(document)
        self.num_documents += 1
        if len(self._rows) == ROWS_PER_BATCH:
            self._write()

    def stored_id(self, row: int, *, path: Path) -> str:
        """The id in a row that was added; ``path`` is the file behind the sink."""
        number, inside = divmod(row, ROWS_PER_BATCH)
        if number == len(self._places):
            return self._rows[inside].id
        if self._last_read[0] != number:
            with path.open("rb") as file:
                file.seek(self._places[number] or _MAGIC_BYTES)
                message = self._pa.ipc.read_message(file)
                if message.type == "schema":  # the writer puts it before the first batch, when that comes
                    message = self._pa.ipc.read_message(file)
            self._last_read = (number, self._pa.ipc.read_record_batch(message, schema()).column(0).to_pylist())
        stored: str = self._last_read[1][inside]
        return stored

    def close(self) -> None:
        """Write the last batch and the footer."""
        if self._rows:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = [self._column([getattr(row, name).encode() for row in self._rows]) for name in COLUMNS]
        self._places.append(self._sink.tell())
        self._writer.write_batch(self._pa.record_batch(columns, schema=schema()))
        self._rows = []

    def _column(self, texts: list[bytes]) -> Any:
        # pa.array imports pandas, where that is installed, to ask whether the list is one of its own: 0.2 s.
        ends = array("q", accumulate(map(len, texts), initial=0))
        buffers = [None, self._pa.py_buffer(ends), self._pa.py_buffer(b"".join(texts))]
        return self._pa.Array.from_buffers(self._pa.large_string(), len(texts), buffers)


def table_of(documents: Iterable[Document], *, name: str) -> DocumentTable:
    """A table in memory, laid out as on disk."""
    sink = import_pyarrow().BufferOutputStream()
    writer = TableWriter(sink)
    for document in documents:
        writer.add(document)
    writer.close()
    return DocumentTable(sink.getvalue(), num_documents=writer.num_documents, name=name)


def schema() -> Any:
    """The columns: text of any length, never null."""
    pa = import_pyarrow()
    return pa.schema([pa.field(name, pa.large_string(), nullable=False) for name in COLUMNS])


def import_pyarrow() -> Any:
    """The pyarrow package, or a ConfigError that names the pip command."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    import pyarrow as pa

    return pa
