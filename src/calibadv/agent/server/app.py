"""The FastAPI application: an agent behind the OpenAI chat endpoints, health, figures, and one page for people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from calibadv.agent.agent import Agent, AgentBusy, Conversation
from calibadv.agent.events import Event, Finished
from calibadv.agent.server import openai_format as wire
from calibadv.agent.server.config import TOKEN_VARIABLE, AgentServerConfig
from calibadv.agent.server.metrics import Metrics
from calibadv.errors import CalibAdvError, ConfigError
from calibadv.io.serving import RequestRefused, has_token, read_body
from calibadv.trajectory import StopReason
from calibadv.version import __version__

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing but itself, and no other page may frame it. Documents are untrusted text, and
nothing in them becomes markup."""


def create_app(agent: Agent, *, config: AgentServerConfig) -> FastAPI:
    """The application around an agent."""
    app = FastAPI(title="calibadv agent", version=__version__, description=wire.__doc__ or "")
    metrics = Metrics()
    _add_chat(app, agent, config=config, metrics=metrics)
    _add_views(app, agent, config=config, metrics=metrics)

    @app.exception_handler(RequestRefused)
    async def refuse(_: Request, error: RequestRefused) -> Response:
        metrics.requests.labels(str(error.status)).inc()
        param = error.param if isinstance(error, wire.BadChat) else None
        return _error(str(error), status=error.status, param=param)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:80]}: {error.detail}"
        return _error(message, status=error.status_code, param=None)

    return app


def _add_chat(app: FastAPI, agent: Agent, *, config: AgentServerConfig, metrics: Metrics) -> None:
    body = {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}

    @app.post("/v1/chat/completions", summary="Ask the agent", openapi_extra={"requestBody": body})
    async def chat_completions(request: Request) -> Response:
        _check_token(request, config=config)
        chat = wire.read_chat(await _read_body(request, config=config), config=config, rollout=agent.config)
        events: asyncio.Queue[Event | CalibAdvError] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listen(event: Event | CalibAdvError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            conversation = agent.ask(chat.question, config=chat.rollout, seed=chat.seed, listener=listen)
        except AgentBusy as error:
            raise wire.BadChat(str(error), status=503) from error
        except ConfigError as error:  # the question leaves no room in the context
            raise wire.BadChat(str(error)) from error
        except CalibAdvError as error:
            raise wire.BadChat(str(error), status=500) from error
        if chat.is_stream:
            stream = _stream(chat, conversation, events, metrics=metrics)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return await _whole(chat, conversation, events, request=request, metrics=metrics)


async def _whole(
    chat: wire.Chat,
    conversation: Conversation,
    events: asyncio.Queue[Event | CalibAdvError],
    *,
    request: Request,
    metrics: Metrics,
) -> Response:
    """Wait for the end, unless the client goes first."""
    gone = asyncio.ensure_future(_disconnected(request))
    seen: list[Event] = []
    try:
        while not seen or not isinstance(seen[-1], Finished):
            coming = asyncio.ensure_future(events.get())
            await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                metrics.cancelled.inc()
                return Response(status_code=499)
            event = coming.result()
            if isinstance(event, CalibAdvError):
                raise wire.BadChat(str(event), status=500)
            seen.append(event)
    finally:
        gone.cancel()
        conversation.cancel()
    finished = seen[-1]
    assert isinstance(finished, Finished)
    metrics.observe(finished)
    if finished.trajectory.stop_reason is StopReason.SEARCH_FAILED:
        raise wire.BadChat(f"{finished.explanation()}; try again", status=503)
    metrics.requests.labels("200").inc()
    return Response(json.dumps(wire.completion(chat, seen)), media_type="application/json")


async def _stream(
    chat: wire.Chat,
    conversation: Conversation,
    events: asyncio.Queue[Event | CalibAdvError],
    *,
    metrics: Metrics,
) -> AsyncIterator[str]:
    """Server-sent events, one chunk each; an error is a chunk as well, since the status has been sent by then."""
    is_over = False
    metrics.requests.labels("200").inc()
    try:
        yield _event(wire.opening(chat))
        while not is_over:
            event = await events.get()
            if isinstance(event, CalibAdvError):
                is_over = True
                yield _event({"error": _error_object(str(event), status=500)})
                return
            if isinstance(event, Finished):
                is_over = True
                metrics.observe(event)
                if event.trajectory.stop_reason is StopReason.SEARCH_FAILED:
                    yield _event({"error": _error_object(f"{event.explanation()}; try again", status=503)})
                    return
            for chunk in wire.chunks(chat, event):
                yield _event(chunk)
        yield "data: [DONE]\n\n"
    finally:
        if not is_over:
            metrics.cancelled.inc()
        conversation.cancel()


def _add_views(app: FastAPI, agent: Agent, *, config: AgentServerConfig, metrics: Metrics) -> None:
    card = {"id": config.model_name, "object": "model", "created": 0, "owned_by": "calibadv"}

    @app.get("/v1/models", summary="The one model")
    async def models(request: Request) -> Response:
        _check_token(request, config=config)
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}", summary="The one model")
    async def model(name: str, request: Request) -> Response:
        _check_token(request, config=config)
        if name != config.model_name:
            raise wire.BadChat(f"there is no model {name[:80]!r} here", status=404, param="model")
        return JSONResponse(card)

    @app.get("/health", summary="Whether questions are answered")
    async def health() -> Response:
        state = {"status": "failed" if agent.failure else "ready", "conversations": agent.num_alive}
        return JSONResponse(state, status_code=503 if agent.failure else 200)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def figures(request: Request) -> Response:
        _check_token(request, config=config)
        metrics.alive.set(agent.num_alive)
        return Response(metrics.write(), media_type=metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        settings = {"model": config.model_name, "examples": config.examples, "token": config.token is not None}
        # "<" must not appear in a script element's data: it could end the element.
        data = json.dumps(settings).replace("<", "\\u003c")
        text = files("calibadv.agent.server").joinpath("page.html").read_text(encoding="utf-8")
        headers = {"Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(text.replace("__SETTINGS__", data), headers=headers)


def _check_token(request: Request, *, config: AgentServerConfig) -> None:
    if config.token is None:
        _check_host(request, config=config)
        return
    if not has_token(request, config.token):
        raise wire.BadChat(f"send {TOKEN_VARIABLE} of the server as the API key", status=401)


def _check_host(request: Request, *, config: AgentServerConfig) -> None:
    """On this machine alone, only its names count: another site's name may be made to lead here (DNS rebinding)."""
    if config.host not in LOOPBACK:
        return
    host = request.headers.get("host", "")
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() not in LOOPBACK:
        message = (
            f"this server answers to {', '.join(LOOPBACK)}, not to {name[:80]!r}; behind a proxy set {TOKEN_VARIABLE}"
        )
        raise wire.BadChat(message, status=403)


async def _read_body(request: Request, *, config: AgentServerConfig) -> bytes:
    # Only JSON: what a page of another site can send without the browser asking first is not JSON.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise wire.BadChat("send the header Content-Type: application/json", status=415)
    return await read_body(
        request, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s, setting="body_timeout_s"
    )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record)}\n\n"  # escapes carry whatever documents hold, half a surrogate pair too


def _error(message: str, *, status: int, param: str | None) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": _error_object(message, status=status, param=param)}, status, headers=headers)


def _error_object(message: str, *, status: int, param: str | None = None) -> dict[str, Any]:
    kinds = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "type": kind, "param": param, "code": None}


_SCHEMA = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "model": {"type": "string"},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            },
        },
        "stream": {"type": "boolean"},
        "temperature": {"type": "number", "minimum": 0},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "max_tokens": {"type": "integer", "minimum": 1},
        "seed": {"type": "integer"},
    },
}
