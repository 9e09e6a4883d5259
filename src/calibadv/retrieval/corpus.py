"""Reading passages: JSONL (also .gz) in the wiki-18 form or with a title field.

One document a line, either ``{"id": "7", "contents": "\\"Title\\"\\ntext"}`` (the first line is the title, in quotes)
or ``{"id": "7", "title": "Title", "text": "text"}``. A line that cannot be used is an error with its file and number: a
corpus with holes would change what a policy can find without anybody noticing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from calibadv.errors import ConfigError, DataError
from calibadv.trajectory import Document


class Corpus(Sequence[Document]):
    """An ordered set of documents with unique ids.

    >>> corpus = Corpus([Document(id="7", title="Ada", text="Ada wrote programs.")])
    >>> len(corpus), corpus[0].title, corpus.get("7").text
    (1, 'Ada', 'Ada wrote programs.')
    """

    def __init__(self, documents: Iterable[Document], *, name: str = "corpus") -> None:
        self.name = name
        self._documents = tuple(documents)
        self._rows: dict[str, int] = {}
        self._sha256: str | None = None
        for row, document in enumerate(self._documents):
            _check_document(document, self._rows, where=f"{name}: document {row + 1}")
            self._rows[document.id] = row
        if not self._documents:
            raise DataError(f"{name}: no documents; a corpus needs at least one")

    @classmethod
    def read(cls, path: Path | str) -> Corpus:
        """Read a .jsonl or .jsonl.gz file."""
        path = Path(path)
        rows: dict[str, int] = {}
        documents: list[Document] = []
        for line, record in _read_lines(path):
            document = _parse_document(record, where=f"{path}:{line}")
            _check_document(document, rows, where=f"{path}:{line}")
            rows[document.id] = line
            documents.append(document)
        return cls(documents, name=str(path))

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Document, ...]: ...
    def __getitem__(self, index: int | slice) -> Document | tuple[Document, ...]:
        return self._documents[index]

    def __len__(self) -> int:
        return len(self._documents)

    def get(self, document_id: str) -> Document:
        """The document with this id; DataError when there is none."""
        if document_id not in self._rows:
            raise DataError(f"{self.name}: no document with id {document_id!r}")
        return self._documents[self._rows[document_id]]

    @property
    def sha256(self) -> str:
        """Digest of every id, title and text in order; what an index is checked against."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for document in self._documents:
                digest.update(json.dumps([document.id, document.title, document.text]).encode())
                digest.update(b"\n")
            self._sha256 = digest.hexdigest()
        return self._sha256

    def write(self, path: Path | str) -> None:
        """Write ``{"id", "title", "text"}`` lines; gzip when the name ends in .gz."""
        path = Path(path)
        is_gzip = path.suffix == ".gz"
        with gzip.open(path, "wt", encoding="utf-8") if is_gzip else path.open("w", encoding="utf-8") as file:
            for document in self._documents:
                record = {"id": document.id, "title": document.title, "text": document.text}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


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


def split_contents(contents: str) -> tuple[str, str]:
    r"""Title and text of the wiki-18 form: the first line is the title, in one pair of quotes.

    >>> split_contents('"Ada Lovelace"\nAda wrote programs.')
    ('Ada Lovelace', 'Ada wrote programs.')
    """
    title, newline, text = contents.partition("\n")
    if not newline:
        return "", contents
    title = title.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title, text


def _read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, parsed JSON) of every line that is not blank."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a .jsonl or .jsonl.gz corpus")
    line = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8")
                if text.strip():
                    yield line, json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason}); convert the file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{line}: not JSON ({error.msg}); one object a line is needed") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{line + 1}: broken gzip file ({error}); fetch it again") from error


def _parse_document(record: Any, *, where: str) -> Document:
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {type(record).__name__}")
    document_id = record.get("id")
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        document_id = str(document_id)
    if not isinstance(document_id, str):
        raise DataError(f'{where}: "id" must be a string or an integer, got {document_id!r}')
    if "contents" in record:
        title, text = split_contents(_string(record, "contents", where=where))
    elif "text" in record:
        title = _string(record, "title", where=where) if record.get("title") is not None else ""
        text = _string(record, "text", where=where)
    else:
        raise DataError(f'{where}: neither "contents" nor "text"; got the fields {sorted(map(str, record))}')
    return Document(id=document_id, title=title, text=text)


def _string(record: dict[str, Any], key: str, *, where: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise DataError(f'{where}: "{key}" must be a string, got {type(value).__name__}')
    return value


def _check_document(document: Document, seen: dict[str, int], *, where: str) -> None:
    if not document.id:
        raise DataError(f"{where}: empty id; every document needs its own")
    if document.id in seen:
        raise DataError(f"{where}: duplicate id {document.id!r}; ids must be unique")
    if not document.text.strip():
        raise DataError(f"{where}: empty document (id {document.id!r}); remove it or give it a text")
