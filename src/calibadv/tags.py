"""The tag grammar: ``<think>``, ``<search>``, ``<information>``, ``<answer>`` as pure functions on strings.

Tags are exact: lower case, no attributes, no inner space. Anything else is plain text. Nothing here knows where a text
comes from; a rollout keeps model text and observations apart, and only imports of plain text (`split_response`) have to
find the border again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
SEARCH_OPEN, SEARCH_CLOSE = "<search>", "</search>"
INFORMATION_OPEN, INFORMATION_CLOSE = "<information>", "</information>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

ROLES = ("think", "search", "information", "answer")
ROLE_TAG = re.compile(r"</?(?:think|search|information|answer)>")
"""Any of the eight tags."""
END_MARKERS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")
"""Special tokens that end a generation in the usual chat formats; plain-text traces sometimes end with them."""
INVALID_MESSAGE = (
    "That was neither a search nor an answer. To look something up, put the query inside of search tags. To finish, "
    "put the final answer inside of answer tags. Try again."
)
"""What a rollout says after an action that is neither, when it continues. It holds no tags."""

_NEW_BLOCK = re.compile(r"</search>\s*<information>")
_BLOCK_AFTER_SEARCH = re.compile(r"(?<=</search>)\s*<information>")
_BLOCK_FRAMED = re.compile(r"\n\n<information>")
_INVALID_MESSAGE = re.compile(
    r"\nMy previous action is invalid\. If I want [^\n]*? Let me try again\.\n"  # Search-R1's
    rf"|\n\n{re.escape(INVALID_MESSAGE)}\n\n"
)


class Pair(NamedTuple):
    """A complete tag pair in a text."""

    role: str
    content: str
    """Between the tags, not stripped."""
    start: int
    """Where the opening tag starts."""
    end: int
    """Just after the closing tag."""


def first_action(text: str) -> Pair | None:
    """The complete search or answer pair that starts first; None when there is none.

    >>> first_action("<answer> a <search> q </search>")
    Pair(role='search', content=' q ', start=11, end=31)
    """
    best: Pair | None = None
    for role in ("search", "answer"):
        opening, closing = f"<{role}>", f"</{role}>"
        start = text.find(opening)
        if start < 0 or (best is not None and start > best.start):
            continue
        inner = start + len(opening)
        stop = text.find(closing, inner)
        if stop >= 0:
            best = Pair(role, text[inner:stop], start, stop + len(closing))
    return best


def thinking_span(text: str, *, think_open: bool) -> tuple[int, int] | None:
    """Where the thinking of a turn stands: inside of its first think pair, which must be complete before the action.

    With ``think_open`` the opening tag came before the text (the think prefill).
    """
    action = first_action(text)
    limit = len(text) if action is None else action.start
    start = 0
    if not think_open:
        start = text.find(THINK_OPEN, 0, limit)
        if start < 0:
            return None
        start += len(THINK_OPEN)
    stop = text.find(THINK_CLOSE, start, limit)
    return None if stop < 0 else (start, stop)


def cut_at_stop(text: str) -> str:
    """Cut a generation that ran on: after the first search close if there is one, else after the first answer close.

    For policies that cannot stop at a string. One that can ends at whichever tag it completes first.

    >>> cut_at_stop("<search>q</search> and so on")
    '<search>q</search>'
    """
    for closing in (SEARCH_CLOSE, ANSWER_CLOSE):
        stop = text.find(closing)
        if stop >= 0:
            return text[: stop + len(closing)]
    return text


def without_end_markers(text: str) -> str:
    """A response without special end tokens at its very end.

    >>> without_end_markers("<answer>a</answer><|im_end|> </s>")
    '<answer>a</answer>'
    """
    while (stripped := text.rstrip()).endswith(END_MARKERS):
        text = next(stripped.removesuffix(marker) for marker in END_MARKERS if stripped.endswith(marker))
    return text


def turn_parts(text: str, *, think_open: bool) -> tuple[str, Pair | None]:
    """A turn's thinking (stripped, "" without a complete think pair) and its action."""
    span = thinking_span(text, think_open=think_open)
    return "" if span is None else text[slice(*span)].strip(), first_action(text)


class Piece(NamedTuple):
    """A model segment and the observation after it, as character ranges of a response."""

    model: tuple[int, int]
    observation: tuple[int, int]
    """Empty at the end of the text when nothing follows."""


def split_response(response: str) -> list[Piece]:
    """Find the observations in a plain-text response.

    An observation is an information block that directly follows a search close, or that stands framed by blank lines as
    rollouts write it, or a message about an invalid action. A closing tag inside a document does not
    end the block as long as no role tag stands between it and the next closing tag. A block that never closes is no
    observation: its text stays with the model. Plain text carries no provenance: this is the best reading, not proof.
    """
    pieces: list[Piece] = []
    start = position = 0
    while True:
        found = _next_observation(response, position)
        if found is None:
            break
        begin, end = found
        pieces.append(Piece((start, begin), (begin, end)))
        start = position = end
    if start < len(response) or not pieces:
        pieces.append(Piece((start, len(response)), (len(response), len(response))))
    return pieces


def _next_observation(text: str, position: int) -> tuple[int, int] | None:
    """The first observation at or after ``position``, white space around it included."""
    best: tuple[int, int] | None = None
    message = _INVALID_MESSAGE.search(text, position)
    if message is not None:
        best = message.span()
    last_close = text.rfind(INFORMATION_CLOSE, position)
    for pattern in (_BLOCK_AFTER_SEARCH, _BLOCK_FRAMED):
        match = pattern.search(text, position)
        while match is not None and match.end() <= last_close and (best is None or match.start() < best[0]):
            end = _block_end(text, match.end(), framed=pattern is _BLOCK_FRAMED)
            if end is not None:
                best = (match.start(), end)
                break
            match = pattern.search(text, match.end())
    return best


def _block_end(text: str, inner: int, *, framed: bool) -> int | None:
    """End of the information block whose content starts at ``inner``, trailing white space included."""
    after = _NEW_BLOCK.search(text, inner)
    limit = len(text) if after is None else after.start()
    close = text.find(INFORMATION_CLOSE, inner, limit)
    while close >= 0:
        end = close + len(INFORMATION_CLOSE)
        again = text.find(INFORMATION_CLOSE, end, limit)
        if again < 0 or ROLE_TAG.search(text, end, again) is not None:
            break
        close = again
    if close < 0:
        return None
    end = close + len(INFORMATION_CLOSE)
    if text.startswith("\n\n", end):
        return end + 2
    if framed and not text.startswith((THINK_OPEN, "\r\n", "\n"), end) and end != len(text):
        return None
    while end < len(text) and text[end].isspace():
        end += 1
    return end


class DocumentText(NamedTuple):
    """A document as it stands in an observation."""

    title: str
    text: str
    source: str
    """``(Title:`` and, stripped, all that follows up to the next document: what the document's identity hangs on."""


_TITLE_QUOTED = re.compile(r'\(Title:\s*"(.*?)"\)(?=\s|$)', re.DOTALL)
_TITLE_PLAIN = re.compile(r"\(Title:\s*((?:[^()]|\([^()]*\))*)\)")


def split_documents(observation: str) -> list[DocumentText]:
    """The documents of an information block, read back from its text.

    Documents are numbered from 1, each at the start of a line; a marker out of sequence or inside a line is text. A
    block without any marker holds one document without a title.

    >>> split_documents('<information>Doc 1(Title: "A") one\\nDoc 2(Title: B) see Doc 3(Title: C)</information>')[1][:2]
    ('B', 'see Doc 3(Title: C)')
    """
    body = observation
    start, stop = body.find(INFORMATION_OPEN), body.rfind(INFORMATION_CLOSE)
    if start < 0 or stop < start:
        return []
    body = body[start + len(INFORMATION_OPEN) : stop].strip()
    marks: list[tuple[int, int]] = []  # (start of the marker, its end)
    position = 0
    while True:
        marker = f"Doc {len(marks) + 1}(Title:"
        at = body.find(marker, position)
        while at > 0 and body[at - 1] != "\n":
            at = body.find(marker, at + 1)
        if at < 0:
            break
        position = at + len(marker)
        marks.append((at, position))
    if not marks:
        return [DocumentText("", body, body)] if body else []
    ends = [mark[0] for mark in marks[1:]] + [len(body)]
    return [_document("(Title:" + body[mark[1] : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def _document(source: str) -> DocumentText:
    match = _TITLE_QUOTED.match(source) or _TITLE_PLAIN.match(source)
    if match is None:
        title, _, text = source.removeprefix("(Title:").partition(")")
        return DocumentText(title.strip(), text.strip(), source)
    return DocumentText(match[1].strip(), source[match.end() :].strip(), source)
