"""What the operator of a retrieval server decides: where it listens, what a request may ask for, how it is batched."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from calibadv.config_class import Count, NonNegativeFloat, Port, PositiveFloat, PositiveInt, config_class
from calibadv.errors import ConfigError
from calibadv.io.http import check_secret
from calibadv.retrieval.client.servers import TOKEN_VARIABLE
from calibadv.retrieval.rerank import Precision


@config_class()
class BackendConfig:
    """What to serve."""

    index: Path
    """An index folder."""
    corpus: Path | None = None
    """Its corpus, when that is no longer where the index was built."""
    encoder: str | None = None
    """The encoder of a dense index, when that is no longer where the index was built: a folder or a hub id."""
    rerank: str | None = None
    """A cross-encoder: a folder or a hub id."""
    device: str | None = None
    """For the encoder and the re-ranker: cpu, cuda, cuda:1, mps; not set: the best there is."""
    search_device: str = "cpu"
    """What compares the vectors of a dense index: cpu, a GPU (cuda, cuda:1), or auto."""
    rerank_batch_size: PositiveInt = 64
    """Pairs in one forward pass."""
    rerank_max_length: PositiveInt = 512
    """Tokens of query and document together; longer ones are cut."""
    rerank_precision: Precision = "auto"
    """auto: float16 on a GPU, else float32."""


@config_class()
class ServerConfig:
    """Limits and sizes; the defaults fit a training run of the paper's size."""

    host: str = "127.0.0.1"
    """Address to listen on; the default takes connections of this machine only."""
    port: Port = 8000
    """0: any free port."""
    top_k: PositiveInt = 20
    """Documents retrieved for a query when the request names no number; with a re-ranker, what it reads."""
    rerank_top_k: PositiveInt = 3
    """Documents kept after re-ranking when the request names no number."""
    max_queries: PositiveInt = 4_096
    """Queries in one request; 512 questions with 5 rollouts ask 2,560 at once."""
    max_query_chars: PositiveInt = 8_192
    """Characters of a query."""
    max_top_k: PositiveInt = 1_000
    """Documents a query may ask for."""
    max_hits: PositiveInt = 100_000
    """Queries times documents of one request (documents sent, for /rerank): bounds the size of an answer."""
    max_body_bytes: PositiveInt = 32 * 2**20
    """Bytes of a request body."""
    max_queue: PositiveInt = 16_384
    """Queries that may wait; more are refused with 503 and Retry-After."""
    request_timeout_s: PositiveFloat = 60.0
    """Seconds after which a request is given up with 503."""
    batch_window_s: NonNegativeFloat = 0.002
    """Seconds an idle worker waits for more queries when the last batch was larger than what has come in so far."""
    max_batch: PositiveInt = 512
    """Queries searched in one call of the index."""
    batch_target_s: PositiveFloat = 0.25
    """Batches are cut to about this many seconds of work, so that answers keep flowing while others are searched."""
    cache_entries: Count = 100_000
    """Answers kept, one a query; 0 turns the cache off."""
    cache_mb: Count = 256
    """Answers kept, in MB; a document found by several queries is counted once."""
    shutdown_grace_s: NonNegativeFloat = 60.0
    """Seconds that requests already accepted may take after SIGTERM."""
    token: str | None = field(default=None, repr=False)
    """When set, requests need ``Authorization: Bearer <token>``; from CALIBADV_RETRIEVER_TOKEN, never from a file."""

    def __post_init__(self) -> None:
        for name in ("top_k", "rerank_top_k"):
            if getattr(self, name) > self.max_top_k:
                raise ConfigError(f"{name} must be <= max_top_k ({self.max_top_k}), got {getattr(self, name)}")
        if self.max_queue < self.max_queries:
            raise ConfigError(
                f"max_queue must be >= max_queries ({self.max_queries}), got {self.max_queue}: the largest request "
                "that is allowed has to fit into the queue"
            )
        if self.token is not None:
            check_secret(self.token, variable=TOKEN_VARIABLE)

    def limits(self) -> dict[str, int | float]:
        """What a client may need to know; part of /health."""
        names = (
            "max_queries", "max_query_chars", "max_top_k", "max_hits", "max_body_bytes", "max_queue",
            "request_timeout_s",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}
