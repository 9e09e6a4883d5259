"""Calls of a generation server over HTTP: one client, retried with exponential backoff, errors that say what to do.

The key travels in a header only; it is never part of a message, and the client's own logger is left alone.
"""

from __future__ import annotations

from typing import Any

from calibadv.errors import PolicyError
from calibadv.io.http import require_httpx2, retry_after_s
from calibadv.io.retry import Retry

DEFAULT_RETRY = Retry(retries=5)
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which the same request may succeed later."""


class ServerError(PolicyError):
    """The server refused a request; ``status`` and ``detail`` are its answer."""

    def __init__(self, message: str, *, status: int, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class ServerCalls:
    """A client of one server. Use it in one event loop."""

    def __init__(self, url: str, *, key: str | None, timeout_s: float, retry: Retry) -> None:
        require_httpx2("generating with a server")
        import httpx2

        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._retry = retry
        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
        )
        self._errors = (httpx2.TransportError, httpx2.DecodingError)

    async def get(self, path: str) -> Any:
        """The JSON (None for an empty body) at ``path``."""
        return await self._call("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to ``body``."""
        return await self._call("POST", path, body)

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        attempts = self._retry.start()
        while True:
            after_s = None
            try:
                answer = await self._client.request(method, path, json=body)
            except self._errors as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if answer.is_success:
                    return _json(answer, url=f"{self.url}{path}")
                detail = _detail(answer, secret=self._key)
                problem = f"status {answer.status_code}: {detail}"
                if answer.status_code not in BUSY:
                    remedy = "; check the key (model.api_key_env)" if answer.status_code in (401, 403) else ""
                    raise ServerError(
                        f"{self.url}{path} refused the request ({problem}){remedy}",
                        status=answer.status_code,
                        detail=detail,
                    )
                after_s = retry_after_s(answer.headers)
            if not await attempts.wait_async(f"{self.url}{path}: {problem}", retry_after_s=after_s):
                raise PolicyError(
                    f"{self.url}{path} was unreachable after {attempts.failed} attempts (model.retries = "
                    f"{self._retry.retries}): {problem}. Check that the server runs and model.url is its address"
                )


def first_choice(answer: Any, *, url: str, kind: str) -> dict[str, Any]:
    """The one completion in an answer of OpenAI's form."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not choices or not isinstance(choices[0], dict):
        raise PolicyError(f"{url} answered without a choice; is it {kind}?")
    return dict(choices[0])


def _json(answer: Any, *, url: str) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as error:
        raise PolicyError(f"{url} did not answer with JSON; is model.url the address of a model server?") from error


def _detail(answer: Any, *, secret: str | None) -> str:
    """What the server says about its refusal, shortened; some repeat the key they were sent."""
    try:
        body = answer.json()
        error = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = answer.text
    text = " ".join(str(text).split())
    text = text.replace(secret, "***") if secret else text
    return text if len(text) <= 300 else text[:300] + " ..."
