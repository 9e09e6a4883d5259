"""Text as encoders and wire formats want it: documents in the wiki-18 form, whole characters."""

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


def encodable(text: str) -> str:
    r"""The text with its halves of surrogate pairs replaced: JSON can carry them, no file and no tokenizer takes them.

    >>> encodable("half \ud83d") == "half \ufffd"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


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
