"""Cutting documents into passages of a fixed number of words."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator

from calibadv.trajectory import Document

_WORD = re.compile(r"\S+")


def passages(document: Document, *, words: int, overlap: int) -> Iterator[Document]:
    """Passages of ``words`` words, each repeating the last ``overlap`` of the one before it; ids ``ID#0``, ``ID#1``.

    Words are what stands between white space; inside a passage the text is as it was. The last passage may be shorter.

    >>> document = Document(id="7", title="Ada", text="one two three  four five")
    >>> [(passage.id, passage.text) for passage in passages(document, words=3, overlap=1)]
    [('7#0', 'one two three'), ('7#1', 'three  four five')]
    """
    starts, ends = array("q"), array("q")
    for match in _WORD.finditer(document.text):
        starts.append(match.start())
        ends.append(match.end())
    # Once a passage reaches the end, a further one would only repeat its tail.
    firsts = range(0, max(1, len(starts) - overlap), words - overlap)
    for number, first in enumerate(firsts):
        last = min(first + words, len(starts)) - 1
        text = document.text[starts[first] : ends[last]]
        yield Document(id=f"{document.id}#{number}", title=document.title, text=text)
