"""What keeps a row of a source from becoming a document. It is a value: the reader decides whether it is an error."""

from __future__ import annotations

from typing import Literal, NamedTuple

from calibadv.trajectory import Document

RowErrorKind = Literal["broken", "not_utf8", "duplicate", "empty"]


class RowError(NamedTuple):
    """Why a row cannot be used; file and line are put in front when it is reported."""

    kind: RowErrorKind
    message: str


def find_row_error(document: Document) -> RowError | None:
    """An empty id, an empty text, or text that UTF-8 cannot hold.

    >>> find_row_error(Document(id="7", title="Ada", text=" "))
    RowError(kind='empty', message="empty document (id '7'); remove it or give it a text")
    """
    if not document.id:
        return RowError("broken", "empty id; every document needs its own")
    if not document.text.strip():
        return RowError("empty", f"empty document (id {document.id!r}); remove it or give it a text")
    for name in ("id", "title", "text"):
        try:
            getattr(document, name).encode()
        except UnicodeEncodeError:
            return RowError("not_utf8", f"the {name} has half a surrogate pair, which is no text; remove it")
    return None


def duplicate(document_id: str) -> RowError:
    """What is wrong with a second document with this id."""
    return RowError("duplicate", f"duplicate id {document_id!r}; ids must be unique")
