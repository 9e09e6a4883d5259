"""How a web search engine is asked, in a run's configuration and in Python alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How often and how fast, and what is remembered. Keys come from the environment, never from here."""

    named: ClassVar[str] = "{}"
    """How a message names a setting."""

    cache: Path | None = None
    """SQLite file that keeps the answers; not set: every search is sent, and paid for."""
    cache_days: float | None = None
    """Age in days at which an answer is asked for again; not set: never."""
    per_second: float | None = None
    """Requests a second; not set: what the engine's usual plan allows."""
    timeout_s: float = 30.0
    """Seconds that one request may take."""

    def __post_init__(self) -> None:
        for name in ("cache_days", "per_second"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{self.named.format(name)} must be > 0, got {value}; leave it out for the default")
        if not self.timeout_s > 0:
            raise ConfigError(f"{self.named.format('timeout_s')} must be > 0, got {self.timeout_s}")
