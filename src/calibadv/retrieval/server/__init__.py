"""The retrieval server: one index behind HTTP, for many rollouts at once.

Map: ``settings`` has `ServerConfig` (limits, windows, the cache), ``wire`` reads the request bodies of the published
clients and writes the answers they expect, ``batcher`` merges the queries of all connections and hands them to the
thread that owns the index and the re-ranker (``backend``), ``cache`` keeps answers as JSON, ``service`` loads the index
in the background and ties these together, ``app`` is the FastAPI application, ``description`` its OpenAPI schemas,
``metrics`` its Prometheus figures, ``run`` serves it until a signal comes. `serve` is what ``calibadv retriever serve``
calls.
"""

from calibadv.retrieval.server.app import create_app
from calibadv.retrieval.server.backend import Backend, BackendConfig, open_backend
from calibadv.retrieval.server.run import serve
from calibadv.retrieval.server.service import RetrievalService
from calibadv.retrieval.server.settings import ServerConfig

__all__ = ["Backend", "BackendConfig", "RetrievalService", "ServerConfig", "create_app", "open_backend", "serve"]
