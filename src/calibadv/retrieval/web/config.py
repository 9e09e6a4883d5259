"""How a search provider is asked: the [retrieval.web] section of a run."""

from __future__ import annotations

from pathlib import Path

from calibadv.config_class import PositiveFloat, PositiveInt, config_class
from calibadv.errors import ConfigError


@config_class("retrieval.web")
class WebSearchConfig:
    """How often and how fast, and what is remembered. Keys come from the environment, never from here."""

    cache: Path | None = None
    """SQLite file that keeps the answers; not set: every search is sent, and paid for."""
    cache_days: PositiveFloat | None = None
    """Age in days at which an answer is asked for again; not set: never."""
    per_second: PositiveFloat | None = None
    """Requests a second; not set: what the provider's usual plan allows."""
    timeout_s: PositiveFloat = 30.0
    """Seconds that one request may take."""
    max_connections: PositiveInt = 8
    """Requests in flight at once."""
    parameters: tuple[str, ...] = ()
    """Further fields of the provider's request, such as ``["gl=us", "hl=en"]``."""
    base_url: str | None = None
    """Another address of the provider, for tests and proxies."""

    def __post_init__(self) -> None:
        for parameter in self.parameters:
            if not parameter.partition("=")[0] or "=" not in parameter:
                raise ConfigError(f'retrieval.web.parameters must be like "gl=us", got "{parameter}"')

    @property
    def fields(self) -> dict[str, str]:
        """``parameters`` by name."""
        return {name: value for name, _, value in (parameter.partition("=") for parameter in self.parameters)}
