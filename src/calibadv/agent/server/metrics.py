"""Prometheus figures of the agent server, in a registry of their own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from calibadv.agent.events import Finished
from calibadv.io.serving import ServerMetrics

PREFIX = "calibadv_agent"
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)


class Metrics(ServerMetrics):
    """Counters and histograms."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.requests = Counter(f"{PREFIX}_requests", "Requests by status", ["status"], registry=registry)
        self.questions = Counter(
            f"{PREFIX}_questions", "Questions played to the end, by why it ended", ["stop_reason"], registry=registry
        )
        self.cancelled = Counter(f"{PREFIX}_cancelled", "Questions whose client went away", registry=registry)
        self.seconds = Histogram(
            f"{PREFIX}_seconds", "From a question to its answer", buckets=SECONDS, registry=registry
        )
        self.searches = Counter(f"{PREFIX}_searches", "Searches carried out", registry=registry)
        self.tokens = Counter(f"{PREFIX}_tokens", "Tokens read and written", ["kind"], registry=registry)
        self.alive = Gauge(f"{PREFIX}_conversations", "Questions being answered", registry=registry)

    def observe(self, finished: Finished) -> None:
        """Count a question that was played to its end."""
        self.questions.labels(str(finished.trajectory.stop_reason)).inc()
        self.seconds.observe(finished.seconds)
        self.searches.inc(len(finished.trajectory.search_turns))
        self.tokens.labels("prompt").inc(finished.prompt_tokens)
        self.tokens.labels("completion").inc(finished.completion_tokens)
