"""One HTTP request and its whole answer, within a deadline; which failures are transient.

The retriever on a server and the web search share this. A connection that breaks, an answer that does not come in time
and the states 429, 502, 503 and 504 are transient: `Transient`. Anything else is a plain `RetrieverError`.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calibadv.errors import ConfigError, RetrieverError

if TYPE_CHECKING:
    import httpx2

PASSING_STATES = frozenset({429, 502, 503, 504})
MAX_ANSWER_BYTES = 512 * 2**20
ENCODINGS = ("gzip", "identity")
"""What clients accept: others, and several on top of each other, can make gigabytes of a few bytes before the limit."""
_SHOWN = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


class Transient(RetrieverError):
    """A failure that may pass: the request may be sent again, here or to another server."""

    def __init__(self, message: str, *, answer: Answer | None = None) -> None:
        after_s = None if answer is None else retry_after_s(answer.headers)
        super().__init__(message, is_transient=True, retry_after_s=after_s)
        self.answer = answer
        """What the server said; None when the connection failed."""

    @property
    def busy(self) -> bool:
        """The server is alive: it answered that it has too much to do, or is starting."""
        return self.answer is not None and self.answer.status in (429, 503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """What an error response says, in one short line of printable text."""
        try:
            content = json.loads(self.body)
        except (ValueError, RecursionError):
            content = self.body.decode("utf-8", "replace")
        return shortened(_message_in(content)) or "no message"

    def json(self, *, where: str) -> Any:
        """The parsed body; RetrieverError when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            start = shortened(self.body[:_SHOWN].decode("utf-8", "replace"))
            raise RetrieverError(f"{where}: the answer is not JSON ({error}); it starts with {start!r}") from None


def exchange(
    client: httpx2.Client,
    request: httpx2.Request,
    *,
    timeout_s: float,
    where: str,
    hide: Callable[[str], str] = str,
) -> Answer:
    """Send a request and read the answer to its end; ``timeout_s`` bounds the whole, however it trickles in.

    2xx comes back as an `Answer`, and so does any other status that is final; `Transient` is raised for what may pass.
    ``hide`` takes secrets out of what an error response says.
    """
    import httpx2

    start = time.monotonic()
    try:
        response = client.send(request, stream=True)
        try:
            body = _read(response, deadline=start + timeout_s, timeout_s=timeout_s, where=where)
        finally:
            response.close()
    except httpx2.TimeoutException as error:
        kind = "no connection" if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout) else "no answer"
        raise Transient(f"{where}: {kind} within {time.monotonic() - start:.1f} s") from None
    except httpx2.TransportError as error:
        raise Transient(f"{where}: {_reason(error)}") from None
    except httpx2.DecodingError as error:
        raise RetrieverError(f"{where}: the answer cannot be decoded ({shortened(str(error))})") from None
    if response.status_code >= 300:  # only errors are quoted
        body = hide(body.decode("utf-8", "replace")).encode()
    answer = Answer(status=response.status_code, headers=response.headers, body=body)
    if answer.status in PASSING_STATES:
        raise Transient(f"{where} answered {answer.status}: {answer.message}", answer=answer)
    return answer


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The Retry-After header in seconds from now; it is a number or a date.

    >>> retry_after_s({"retry-after": "2"}), retry_after_s({"retry-after": "soon"}), retry_after_s({})
    (2.0, None, None)
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def require_httpx2(what: str) -> None:
    """Say which pip command is missing."""
    try:
        import httpx2  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what} needs httpx2: pip install 'calibadv[retrieval]'") from error


def check_secret(secret: str, *, variable: str) -> None:
    """Refuse what cannot travel in a header; ``variable`` of the environment holds it."""
    if not secret or " " in secret or not (secret.isascii() and secret.isprintable()):
        raise ConfigError(f"{variable} must be printable ASCII without blanks, and not empty: it is sent in a header")


def hider(secrets: Sequence[str]) -> Callable[[str], str]:
    """A function that takes secrets out of a text; it shows none of them itself."""

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return text

    return hide


def shortened(text: str) -> str:
    """One line of printable text of bounded length.

    >>> shortened("too  many\\nqueries")
    'too many queries'
    """
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def _read(response: httpx2.Response, *, deadline: float, timeout_s: float, where: str) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ENCODINGS:
        raise RetrieverError(f"{where}: the answer is encoded as {shortened(encoding)!r}, which was not asked for")
    parts: list[bytes] = []
    size = 0
    for part in response.iter_bytes():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise RetrieverError(f"{where}: the answer is larger than {MAX_ANSWER_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise Transient(f"{where}: the answer was not complete within {timeout_s:g} s")
        parts.append(part)
    return b"".join(parts)


def _reason(error: Exception) -> str:
    text = shortened(str(error)) or type(error).__name__
    return f"the connection failed ({text})"


def _message_in(content: Any) -> str:
    """The words in ``{"detail": ...}``, ``{"error": {"message": ...}}`` and their kind."""
    if isinstance(content, Mapping):
        for name in ("detail", "error", "message", "msg", "status"):
            if content.get(name):
                return _message_in(content[name])
        return json.dumps(content)
    if isinstance(content, list):
        return "; ".join(_message_in(item) for item in content[:3])
    return str(content)
