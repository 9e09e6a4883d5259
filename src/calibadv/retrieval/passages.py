"""The text of a document as encoders and wire formats want it: the wiki-18 form."""

from __future__ import annotations

from calibadv.trajectory import Document


def contents(document: Document) -> str:
    r"""Title in one pair of quotes, a line break, the text; a document without a title is its text alone.

    >>> contents(Document(id="7", title="Ada Lovelace", text="Ada wrote programs."))
    '"Ada Lovelace"\nAda wrote programs.'
    >>> contents(Document(id="8", title="", text="Plain text."))
    'Plain text.'
    """
    return f'"{document.title}"\n{document.text}' if document.title else document.text
