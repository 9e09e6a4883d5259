"""Which documents are searched and how: the [retrieval] section of a run."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from calibadv.config_class import NonNegativeFloat, PositiveFloat, PositiveInt, config_class
from calibadv.errors import ConfigError
from calibadv.retrieval.bm25 import BM25Config
from calibadv.retrieval.web.config import WebSearchConfig
from calibadv.retrieval.web.providers import check_provider_name


@config_class("retrieval.rerank")
class RerankConfig:
    """A second look at what was found, by a cross-encoder."""

    model: Path | str | None = None
    """A folder or a hub id; not set: no re-ranking."""
    candidates: PositiveInt = 20
    """Documents that are found for each query and re-ranked (the paper's 20)."""
    max_length: PositiveInt = 512
    """Tokens of query and document together; the rest is cut."""
    batch_size: PositiveInt = 64
    """Pairs scored at once."""


@config_class("retrieval.remote")
class RemoteConfig:
    """How servers are asked. A token comes from the environment (CALIBADV_RETRIEVER_TOKEN), never from here."""

    dialect: Literal["search-r1", "calibadv"] = "search-r1"
    """"calibadv" lets the server re-rank; our own server speaks both."""
    timeout_s: PositiveFloat = 60.0
    """Seconds that one request may take."""
    wait_s: NonNegativeFloat = 600.0
    """Seconds to wait at the start for servers that are still loading."""


@config_class("retrieval")
class RetrievalConfig:
    """Where documents come from: exactly one of ``corpus``, ``index``, ``url`` and ``online``.

    How many documents a search returns is ``rollout.top_k``.
    """

    corpus: Path | None = None
    """A folder of ``calibadv corpus import``, or a .jsonl or .jsonl.gz file that fits into memory."""
    index: Path | None = None
    """A folder of ``calibadv index build``; its manifest says how it is searched."""
    url: str | tuple[str, ...] | None = None
    """A retrieval server, or a list of servers of one index."""
    online: str | None = None
    """Web search by a provider: serper, serpapi, or one of your own as "package.module:name"; what it finds changes and
    costs money."""
    retriever: str | None = None
    """A retriever of your own as "package.module:name": a class or function, called without arguments."""
    method: Literal["bm25", "dense", "hybrid"] = "bm25"
    """How a ``corpus`` is searched; "dense" and "hybrid" need their index to be built beforehand."""
    index_dir: Path | None = None
    """Folder of the index of ``corpus``; not set: the folder ``method`` in that of the corpus. BM25 is built there at
    first use where ``index_dir`` is set, and in memory each time where there is no index."""
    encoder: Path | str | None = None
    """The encoder of a dense index, where it is not at the index's place for it: a folder or a hub id."""
    device: str = "auto"
    """Where encoder and re-ranker run: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ..."""
    bm25: BM25Config = field(default_factory=BM25Config)
    """What BM25 reads, when it is built for a ``corpus``."""
    rerank: RerankConfig = field(default_factory=RerankConfig)
    """A re-ranker in this process."""
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    """How a ``url`` is asked."""
    web: WebSearchConfig = field(default_factory=WebSearchConfig)
    """How ``online`` is asked."""

    def __post_init__(self) -> None:
        named = [name for name in ("corpus", "index", "url", "online", "retriever") if getattr(self, name)]
        if len(named) != 1:
            raise ConfigError(
                "documents come from exactly one of retrieval.corpus (a file or folder), retrieval.index (a folder of "
                "calibadv index build), retrieval.url (a server) and retrieval.online (web search); "
                f"got {' and '.join(named) or 'none'}"
            )
        if self.online is not None:
            check_provider_name(self.online)
        if self.index_dir is not None and self.corpus is None:
            raise ConfigError(f"retrieval.index_dir belongs to retrieval.corpus; retrieval.{named[0]} does not use it")
        if self.encoder is not None and self.index is None and self.method == "bm25":
            raise ConfigError(f"retrieval.encoder belongs to a dense index; retrieval.{named[0]} does not use it")

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()
