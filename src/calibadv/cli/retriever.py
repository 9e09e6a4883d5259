"""``calibadv retriever``: the retrieval server."""

from __future__ import annotations

import argparse
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from calibadv.cli.options import (
    add_address_options,
    add_corpus_option,
    add_device_option,
    add_encoder_option,
    add_search_device_option,
    count,
    new_command,
    positive,
    require_packages,
)

EPILOG = """\
examples
  calibadv retriever serve wiki/bm25                       on http://127.0.0.1:8000, 20 documents a query
  calibadv retriever serve wiki/dense --rerank cross-encoder/ms-marco-MiniLM-L12-v2
  calibadv retriever serve wiki/dense --host 0.0.0.0       for other machines; set CALIBADV_RETRIEVER_TOKEN
  curl localhost:8000/retrieve -d '{"queries": ["who wrote the first program"], "topk": 3, "return_scores": true}'

The server answers the clients of CalibAdv, Search-R1 and SkyRL. GET /health says whether the index is loaded,
GET /metrics gives figures for Prometheus, GET /docs describes the requests.
SIGTERM lets it finish what it has accepted.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand and its own."""
    parser = new_command(
        commands,
        "retriever",
        help="serve an index over HTTP",
        description="Serve an index over HTTP, to training runs and to other clients.",
        epilog=EPILOG,
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = new_command(
        verbs,
        "serve",
        help="serve an index until a signal comes",
        description="Serve an index until a signal comes.",
        epilog=EPILOG,
    )
    serve.add_argument("index", type=Path, metavar="INDEX", help="an index folder, made by calibadv index build")
    add_corpus_option(serve)
    add_encoder_option(serve)
    add_device_option(serve)
    add_search_device_option(serve)
    serve.add_argument(
        "--top-k", type=positive, default=20, metavar="N", help="documents retrieved a query (default: 20)"
    )
    add_address_options(serve, port=8000)
    _add_rerank_options(serve)
    _add_limits(serve)
    serve.set_defaults(command=run)


def _add_rerank_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("re-ranking")
    group.add_argument("--rerank", metavar="MODEL", help="cross-encoder: a folder or a hub id (default: no re-ranking)")
    group.add_argument("--rerank-top-k", type=positive, default=3, metavar="N", help="documents kept (default: 3)")
    group.add_argument(
        "--rerank-batch-size", type=positive, default=64, metavar="N", help="pairs at once (default: 64)"
    )
    group.add_argument("--rerank-max-length", type=positive, default=512, metavar="N", help="tokens (default: 512)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--max-queries", type=positive, default=4096, metavar="N", help="of a request (default: 4096)")
    group.add_argument(
        "--max-query-chars", type=positive, default=8192, metavar="N", help="characters of a query (default: 8192)"
    )
    group.add_argument(
        "--max-top-k", type=positive, default=1000, metavar="N", help="documents a query (default: 1000)"
    )
    group.add_argument(
        "--max-queue", type=positive, default=16384, metavar="N", help="waiting queries before 503 (default: 16384)"
    )
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds a request may take (default: 60)"
    )
    group.add_argument(
        "--cache-mb", type=count, default=256, metavar="N", help="answers kept, in MB; 0: none (default: 256)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve."""
    require_packages("fastapi", "uvicorn", "prometheus_client", extra="serve", what="the retrieval server")
    if arguments.rerank is not None:
        require_packages("torch", "sentence_transformers", extra="dense", what="--rerank")
    from calibadv.retrieval.server import BackendConfig, ServerConfig, open_backend, serve
    from calibadv.retrieval.server.config import TOKEN_VARIABLE

    backend = BackendConfig(
        index=arguments.index,
        corpus=arguments.corpus,
        encoder=arguments.encoder,
        rerank=arguments.rerank,
        device=arguments.device,
        search_device=arguments.search_device,
        rerank_batch_size=arguments.rerank_batch_size,
        rerank_max_length=arguments.rerank_max_length,
    )
    config = ServerConfig(
        host=arguments.host,
        port=arguments.port,
        top_k=arguments.top_k,
        rerank_top_k=arguments.rerank_top_k,
        max_queries=arguments.max_queries,
        max_query_chars=arguments.max_query_chars,
        max_top_k=arguments.max_top_k,
        max_queue=arguments.max_queue,
        request_timeout_s=arguments.timeout,
        cache_bytes=arguments.cache_mb * 2**20,
        token=os.environ.get(TOKEN_VARIABLE),
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    serve(
        partial(open_backend, backend), config=config, on_listening=lambda url: print(f"Listening on {url}", flush=True)
    )
    print("Stopped.")
