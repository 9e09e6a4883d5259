"""A whole file as documents at once, for corpora that are read into memory: anything wrong with it is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from calibadv.errors import DataError
from calibadv.retrieval.flaws import Flaw
from calibadv.retrieval.importing.fields import FieldReader
from calibadv.retrieval.importing.json_lines import read_json_lines
from calibadv.retrieval.importing.options import ImportOptions
from calibadv.trajectory import Document


def read_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Place (file and line) and document of every line of a .jsonl or .jsonl.gz file; DataError at the first flaw."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a .jsonl or .jsonl.gz corpus, or a folder that an import made")
    reader = FieldReader(ImportOptions(strict=True), may_number=False)
    for line, row in read_json_lines(path, at=lambda position: None):
        document = row if isinstance(row, Flaw) else reader.document(row, number=line - 1)
        if isinstance(document, Flaw):
            raise DataError(f"{path}:{line}: {document.message}")
        yield f"{path}:{line}", document
