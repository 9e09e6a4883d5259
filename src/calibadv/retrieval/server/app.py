"""The FastAPI application: reads bodies within limits, checks the token, maps what went wrong to status codes.

Bodies are read and answers written by hand (`wire`): a request of five queries is parsed and rendered in tens of
microseconds, and the limits' messages are ours. FastAPI routes, and describes the endpoints (/docs, /openapi.json).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response

from calibadv.io.serving import CLIENT_GONE, RequestRefused, has_token, read_body
from calibadv.retrieval.client.servers import TOKEN_VARIABLE
from calibadv.retrieval.server import schemas
from calibadv.retrieval.server.backend import Pairs
from calibadv.retrieval.server.batcher import QueueFull, WorkFailed
from calibadv.retrieval.server.config import ServerConfig
from calibadv.retrieval.server.service import ClientGone, DeadlinePassed, NotReady, RetrievalService
from calibadv.retrieval.server.wire import (
    parse_json,
    parse_rerank,
    parse_retrieve,
    read_document,
    render_rerank,
    render_retrieve,
    to_json,
)
from calibadv.version import __version__

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1


def create_app(service: RetrievalService) -> FastAPI:
    """The application around a service; the index is loaded when it starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(title="calibadv retriever", version=__version__, description=schemas.DESCRIPTION, lifespan=lifespan)
    _add_searches(app, service)
    _add_views(app, service)
    return app


def _add_searches(app: FastAPI, service: RetrievalService) -> None:
    config = service.config
    models = schemas.RequestModels(config)
    body_of = partial(
        read_body, max_bytes=config.max_body_bytes, timeout_s=config.request_timeout_s, setting="request_timeout_s"
    )

    @app.post(
        "/retrieve",
        summary="Find documents",
        openapi_extra=schemas.retrieve_body(models),
        responses=schemas.results(400, 401, 408, 413, 422, 500, 503),
        response_class=Response,
    )
    async def retrieve(request: Request) -> Response:
        async def answer() -> Response:
            reranks = service.reranks
            record = parse_json(await body_of(request))
            wanted = parse_retrieve(record, models=models, config=config, reranks=reranks)
            answers = await service.retrieve(wanted.queries, depth=wanted.depth, disconnected=request.receive)
            return _json(render_retrieve(wanted, answers))

        return await _guarded("retrieve", request, answer, service=service)

    @app.post(
        "/rerank",
        summary="Sort documents",
        openapi_extra=schemas.rerank_body(models),
        responses=schemas.results(400, 401, 404, 408, 413, 422, 500, 503),
        response_class=Response,
    )
    async def rerank(request: Request) -> Response:
        async def answer() -> Response:
            if not service.reranks:
                raise RequestRefused("this server has no re-ranker; start it with --rerank MODEL", status=404)
            record = parse_json(await body_of(request))
            wanted = parse_rerank(record, models=models, config=config)
            documents = [[read_document(document) for document in sent] for sent in wanted.documents]
            payloads = [
                Pairs(query, tuple((d.title, d.text) for d in some))
                for query, some in zip(wanted.queries, documents, strict=True)
            ]
            scores = await service.rerank(payloads, disconnected=request.receive)
            return _json(render_rerank(wanted, scores))

        return await _guarded("rerank", request, answer, service=service)


def _add_views(app: FastAPI, service: RetrievalService) -> None:
    @app.get(
        "/health",
        summary="Whether searches are answered; 503 while the index is being loaded",
        responses={503: {"description": "Not ready", "content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def health(request: Request) -> Response:
        # Open to everyone, for load balancers; what is served only to those who may search it.
        state = service.health(with_details=_is_allowed(request, config=service.config))
        status = 200 if state["status"] == "ready" else 503
        return _json(to_json(state), status=status, retry_after_s=None if status == 200 else RETRY_AFTER_S)

    @app.get("/metrics", summary="Figures for Prometheus", responses=schemas.failures(401), response_class=Response)
    async def metrics(request: Request) -> Response:
        async def answer() -> Response:
            return Response(service.write_metrics(), media_type=service.metrics.content_type)

        return await _guarded("metrics", request, answer, service=service)

    @app.get(
        "/documents/{document_id:path}",
        summary="One document",
        responses=schemas.failures(401, 404, 503),
    )
    async def document(document_id: str, request: Request) -> Response:
        async def answer() -> Response:
            found = await service.document(document_id)
            if found is None:
                raise RequestRefused(f"no document with the id {document_id[:80]!r}", status=404)
            return _json(to_json(found))

        return await _guarded("documents", request, answer, service=service)


async def _guarded(
    endpoint: str, request: Request, answer: Callable[[], Awaitable[Response]], *, service: RetrievalService
) -> Response:
    """The answer, or the status and message of what went wrong; counted and timed."""
    start = time.perf_counter()
    try:
        if not _is_allowed(request, config=service.config):
            raise RequestRefused(
                f"send the header Authorization: Bearer TOKEN ({TOKEN_VARIABLE} of the server)", status=401
            )
        response = await answer()
    except RequestRefused as error:
        response = _detail(str(error), status=error.status)
    except QueueFull as error:
        response = _detail(str(error), status=503, retry_after_s=error.retry_after_s)
    except (NotReady, DeadlinePassed) as error:
        response = _detail(str(error), status=503, retry_after_s=RETRY_AFTER_S)
    except ClientGone:
        response = Response(status_code=CLIENT_GONE)
    except WorkFailed as error:
        response = _detail(f"the search failed: {error}", status=500)
    except Exception:
        logger.exception("/%s failed", endpoint)
        response = _detail("the server failed; its log says why", status=500)
    service.metrics.observe_request(endpoint, response.status_code, time.perf_counter() - start)
    return response


def _is_allowed(request: Request, *, config: ServerConfig) -> bool:
    return config.token is None or has_token(request, config.token)


def _json(body: bytes, *, status: int = 200, retry_after_s: int | None = None) -> Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else None
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def _detail(message: str, *, status: int, retry_after_s: int | None = None) -> Response:
    response = _json(to_json({"detail": message}), status=status, retry_after_s=retry_after_s)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response
