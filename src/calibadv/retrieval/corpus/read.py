"""Opening a corpus, whatever form it has: a folder that an import made, or a file that fits into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calibadv.errors import DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing.config import ImportConfig
from calibadv.retrieval.corpus.importing.fields import FieldReader
from calibadv.retrieval.corpus.importing.jsonl import read_rows
from calibadv.retrieval.corpus.row_errors import RowError
from calibadv.trajectory import Document


def read_corpus(path: Path | str) -> Corpus:
    """Open a corpus folder, or read a .jsonl or .jsonl.gz file into memory.

    A line that cannot be used is an error with its file and number: a corpus with holes would change what a policy
    can find without anybody noticing.
    """
    path = Path(path)
    if path.is_dir():
        return Corpus.open(path)
    return Corpus.in_memory(read_documents(path), name=str(path))


def read_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Place (file and line) and document of every line of a .jsonl or .jsonl.gz file; DataError at the first error."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a .jsonl or .jsonl.gz corpus, or a folder that an import made")
    reader = FieldReader(ImportConfig(strict=True), may_number=False)
    for line, row in read_rows(path):
        document = row if isinstance(row, RowError) else reader.document(row, number=line - 1)
        if isinstance(document, RowError):
            raise DataError(f"{path}:{line}: {document.message}")
        yield f"{path}:{line}", document
