"""The retrieval server: one index behind HTTP, for many rollouts at once.

- `app`: the FastAPI application: reads bodies within limits, checks the token, maps what went wrong to status codes
- `backend`: what the worker's thread owns: the index and the re-ranker, and how a batch is worked on
- `batcher`: merges the work of all connections into batches for the one thread that owns the index and the models
- `cache`: answers kept as JSON: a document that many queries find is rendered and held once
- `config`: what the operator of a retrieval server decides: where it listens, what a request may ask for, how it is
  batched
- `metrics`: prometheus figures of the server, in a registry of their own
- `run`: serves until SIGTERM or SIGINT, then answers what was accepted, and ends
- `schemas`: what each endpoint takes and gives, as pydantic models: they check requests and describe the endpoints
- `service`: behind the endpoints: loads the index in the background, answers from the cache or through the batcher
- `wire`: the JSON of the published clients: three ways to ask ``/retrieve``, two to ask ``/rerank``, and their
  answers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.retrieval.server.app import create_app
    from calibadv.retrieval.server.backend import Backend, open_backend
    from calibadv.retrieval.server.config import BackendConfig, ServerConfig
    from calibadv.retrieval.server.run import serve
    from calibadv.retrieval.server.service import RetrievalService

__all__ = ["Backend", "BackendConfig", "RetrievalService", "ServerConfig", "create_app", "open_backend", "serve"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.retrieval.server.app": ("create_app",),
        "calibadv.retrieval.server.backend": (
            "Backend",
            "open_backend",
        ),
        "calibadv.retrieval.server.config": (
            "BackendConfig",
            "ServerConfig",
        ),
        "calibadv.retrieval.server.run": ("serve",),
        "calibadv.retrieval.server.service": ("RetrievalService",),
    },
)
