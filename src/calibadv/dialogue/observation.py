"""Documents to text: what the policy reads after a search, and after an action that is neither search nor answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from calibadv.dialogue.sanitize import neutralise
from calibadv.errors import ConfigError
from calibadv.tags import INFORMATION_CLOSE, INFORMATION_OPEN, INVALID_MESSAGE, THINK_OPEN
from calibadv.trajectory import Document

# Long unbroken runs (scripts without spaces, base64) count as several words, so that they can be shortened too.
_WORD = re.compile(r"\S{1,24}")
_Shorten = Callable[[Sequence[Document], int], tuple[Document, ...]]


def render_observation(
    documents: Sequence[Document],
    *,
    think_prefill: bool,
    fits: Callable[[str], bool] | None = None,
) -> tuple[str, tuple[Document, ...]]:
    """What the policy reads after a search.

    Shortening caps the words of every document's text, so the longest are shortened first; then the titles'; then
    documents are dropped from the end. Tags are never cut.

    Args:
        documents: What the search found, best first.
        think_prefill: End the text with the opening think tag.
        fits: Whether a text is short enough; None: any is.

    Returns:
        The observation, and the documents as shown in it: sanitized and shortened.

    Raises:
        ConfigError: Not even an observation without documents fits.

    >>> render_observation([Document(id="1", title="Oslo", text="A city.")], think_prefill=True)[0]
    '\\n\\n<information>Doc 1(Title: "Oslo") A city.</information>\\n\\n<think>'
    """
    shown = tuple(_harmless(document) for document in documents)
    text = _render(shown, think_prefill)
    if fits is None or fits(text):
        return text, shown
    for part, shorten in (("text", _cap_texts), ("title", _cap_titles)):
        longest = max((len(_WORD.findall(getattr(d, part))) for d in shown), default=0)

        def fits_capped(words: int, documents: tuple[Document, ...] = shown, shorten: _Shorten = shorten) -> bool:
            return fits(_render(shorten(documents, words), think_prefill))

        best = _largest(longest, fits_capped)
        if best is not None:
            shown = shorten(shown, best)
            return _render(shown, think_prefill), shown
        shown = shorten(shown, 0)
    for count in range(len(shown) - 1, -1, -1):
        text = _render(shown[:count], think_prefill)
        if fits(text):
            return text, shown[:count]
    raise ConfigError("rollout.max_observation_tokens is too small for an observation without any document; raise it")


def render_invalid(*, think_prefill: bool) -> str:
    """The message after an invalid action when the episode continues.

    Args:
        think_prefill: End the text with the opening think tag.

    Returns:
        A text without tags apart from the prefill.
    """
    return f"\n\n{INVALID_MESSAGE}\n\n{THINK_OPEN if think_prefill else ''}"


def _render(documents: Sequence[Document], think_prefill: bool) -> str:
    lines = [f'Doc {rank}(Title: "{d.title}") {d.text}\n' for rank, d in enumerate(documents, start=1)]
    prefill = THINK_OPEN if think_prefill else ""
    return f"\n\n{INFORMATION_OPEN}{''.join(lines).strip()}{INFORMATION_CLOSE}\n\n{prefill}"


def _harmless(document: Document) -> Document:
    title = " ".join(document.title.split())
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return replace(document, title=neutralise(title), text=neutralise(document.text))


def _cap(text: str, words: int) -> str:
    end = 0
    for count, match in enumerate(_WORD.finditer(text), start=1):
        if count > words:
            return text[:end]
        end = match.end()
    return text


def _cap_texts(documents: Sequence[Document], words: int) -> tuple[Document, ...]:
    return tuple(replace(d, text=_cap(d.text, words)) for d in documents)


def _cap_titles(documents: Sequence[Document], words: int) -> tuple[Document, ...]:
    return tuple(replace(d, title=_cap(d.title, words)) for d in documents)


def _largest(limit: int, accept: Callable[[int], bool]) -> int | None:
    """The largest number in [0, limit) that is accepted, by bisection; None if not even 0 is."""
    if not accept(0):
        return None
    low, high = 0, max(limit, 1)  # low is accepted, high is not (the uncut text did not fit)
    while high - low > 1:
        middle = (low + high) // 2
        if accept(middle):
            low = middle
        else:
            high = middle
    return low
