"""Prometheus figures of the server, in a registry of their own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from calibadv.io.serving import ServerMetrics

PREFIX = "calibadv_retriever"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics(ServerMetrics):
    """Counters and histograms. Gauges are set when somebody asks (`write`)."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.requests = Counter(
            f"{PREFIX}_requests", "Requests answered, by endpoint and status", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "From the first byte of a request to its answer",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        self.queries = Counter(f"{PREFIX}_queries", "Queries received", registry=registry)
        self.cache_hits = Counter(f"{PREFIX}_cache_hits", "Queries answered from the cache", registry=registry)
        self.cache_misses = Counter(f"{PREFIX}_cache_misses", "Queries not in the cache", registry=registry)
        self.joined = Counter(
            f"{PREFIX}_joined_queries", "Queries that shared the search of an equal one", registry=registry
        )
        self.dropped = Counter(
            f"{PREFIX}_dropped_queries", "Queries left unsearched: the client went away or waited too long",
            registry=registry,
        )  # fmt: skip
        self.batch_queries = Histogram(
            f"{PREFIX}_batch_queries", "Queries in a batch", ["kind"], buckets=SIZES, registry=registry
        )
        self.batch_seconds = Histogram(
            f"{PREFIX}_batch_seconds", "Seconds a batch took", ["kind"], buckets=SECONDS, registry=registry
        )
        self.queue_depth = Gauge(f"{PREFIX}_queue_depth", "Queries that wait for the worker", registry=registry)
        self.unfinished = Gauge(f"{PREFIX}_unfinished_queries", "Queries waiting or being searched", registry=registry)
        self.cache_entries = Gauge(f"{PREFIX}_cache_entries", "Answers in the cache", registry=registry)
        self.cache_bytes = Gauge(f"{PREFIX}_cache_bytes", "Bytes in the cache, about", registry=registry)
        self.ready = Gauge(f"{PREFIX}_ready", "1 when the index is loaded", registry=registry)

    def observe_batch(self, kind: str, size: int, seconds: float) -> None:
        """Count one batch."""
        self.batch_queries.labels(kind).observe(size)
        self.batch_seconds.labels(kind).observe(seconds)

    def observe_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)
