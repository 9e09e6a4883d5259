"""What the operator of a retrieval server decides: where it listens, what a request may ask for, how it is batched."""

from __future__ import annotations

from dataclasses import dataclass, field

from calibadv.errors import ConfigError

TOKEN_VARIABLE = "CALIBADV_RETRIEVER_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Limits and sizes; the defaults fit a training run of the paper's size."""

    host: str = "127.0.0.1"
    """Address to listen on; the default takes connections of this machine only."""
    port: int = 8000
    """0: any free port."""
    top_k: int = 20
    """Documents retrieved for a query when the request names no number; with a re-ranker, what it reads."""
    rerank_top_k: int = 3
    """Documents kept after re-ranking when the request names no number."""
    max_queries: int = 4_096
    """Queries in one request; 512 questions with 5 rollouts ask 2,560 at once."""
    max_query_chars: int = 8_192
    """Characters of a query."""
    max_top_k: int = 1_000
    """Documents a query may ask for."""
    max_hits: int = 100_000
    """Queries times documents of one request (documents sent, for /rerank): bounds the size of an answer."""
    max_body_bytes: int = 32 * 2**20
    """Bytes of a request body."""
    max_queue: int = 16_384
    """Queries that may wait; more are refused with 503 and Retry-After."""
    request_timeout_s: float = 60.0
    """Seconds after which a request is given up with 503."""
    batch_window_s: float = 0.002
    """Seconds an idle worker waits for more queries when the last batch was larger than what has come in so far."""
    max_batch: int = 512
    """Queries searched in one call of the index."""
    batch_target_s: float = 0.25
    """Batches are cut to about this many seconds of work, so that answers keep flowing while others are searched."""
    cache_entries: int = 100_000
    """Answers kept, one a query; 0 turns the cache off."""
    cache_bytes: int = 256 * 2**20
    """Bytes of answers kept; a document found by several queries is counted once."""
    shutdown_grace_s: float = 60.0
    """Seconds that requests already accepted may take after SIGTERM."""
    token: str | None = field(default=None, repr=False)
    """When set, requests need ``Authorization: Bearer <token>``; from CALIBADV_RETRIEVER_TOKEN, never from a file."""

    def __post_init__(self) -> None:
        at_least_one = (
            "top_k", "rerank_top_k", "max_queries", "max_query_chars", "max_top_k", "max_hits", "max_body_bytes",
            "max_queue", "max_batch",
        )  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("batch_window_s", "cache_entries", "cache_bytes", "shutdown_grace_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("request_timeout_s", "batch_target_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("top_k", "rerank_top_k"):
            if getattr(self, name) > self.max_top_k:
                raise ConfigError(f"{name} must be <= max_top_k ({self.max_top_k}), got {getattr(self, name)}")
        if self.max_queue < self.max_queries:
            raise ConfigError(
                f"max_queue must be >= max_queries ({self.max_queries}), got {self.max_queue}: the largest request "
                "that is allowed has to fit into the queue"
            )
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be between 0 and 65535, got {self.port}")
        if self.token is not None and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise ConfigError(f"{TOKEN_VARIABLE} must be printable ASCII without blanks: it travels in an HTTP header")
        if self.token == "":
            raise ConfigError(f"{TOKEN_VARIABLE} is empty; unset it or give it a secret")

    def limits(self) -> dict[str, int | float]:
        """What a client may need to know; part of /health."""
        names = (
            "max_queries", "max_query_chars", "max_top_k", "max_hits", "max_body_bytes", "max_queue",
            "request_timeout_s",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}
