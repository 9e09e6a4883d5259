"""``calibadv retriever``: the retrieval server."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import command, epilogue, fill, takes
from calibadv.io.packages import require_packages
from calibadv.retrieval.client.servers import TOKEN_VARIABLE
from calibadv.retrieval.server.config import BackendConfig, ServerConfig

EXAMPLES = """\
  calibadv retriever serve wiki/bm25                     on http://127.0.0.1:8000, 20 documents a query
  calibadv retriever serve wiki/dense --rerank cross-encoder/ms-marco-MiniLM-L12-v2
  calibadv retriever serve wiki/dense --host 0.0.0.0     for other machines; set CALIBADV_RETRIEVER_TOKEN

  curl localhost:8000/retrieve -d '{"queries": ["who wrote the first program"],
    "topk": 3, "return_scores": true}'

The server answers the clients of CalibAdv, Search-R1 and SkyRL. GET /health says
whether the index is loaded, GET /metrics gives figures for Prometheus, GET /docs
describes the requests. SIGTERM lets it finish what it has accepted.
"""

app = command("retriever", examples=EXAMPLES)


@app.command(name="serve", help_epilogue=epilogue(EXAMPLES))
@takes(BackendConfig, skip=("index",), group="Index and re-ranking")
@takes(ServerConfig, skip=("token",), group="Server and limits", request_timeout_s="timeout")
def serve_command(
    index: Annotated[Path, Parameter(help="An index folder, made by calibadv index build.")], /, **options: Any
) -> None:
    """Serve an index over HTTP, to training runs and to other clients, until a signal comes."""
    require_packages("fastapi", "uvicorn", "prometheus_client", extra="serve", what="the retrieval server")
    if options["rerank"] is not None:
        require_packages("torch", "sentence_transformers", extra="dense", what="--rerank")
    from calibadv.retrieval.open import check_index
    from calibadv.retrieval.server import open_backend, serve

    backend = fill(BackendConfig, options, index=index)
    config = fill(ServerConfig, options, token=os.environ.get(TOKEN_VARIABLE))
    check_index(index, corpus=backend.corpus, encoder=backend.encoder)  # before anybody is told where to connect
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    serve(
        partial(open_backend, backend), config=config, on_listening=lambda url: print(f"Listening on {url}", flush=True)
    )
    print("Stopped.")
