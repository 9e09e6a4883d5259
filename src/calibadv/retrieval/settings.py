"""Which documents are searched and how: the [retrieval] section of a run, and opening what it names."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from calibadv.errors import ConfigError
from calibadv.retrieval.asking import Asking
from calibadv.retrieval.base import Retriever
from calibadv.retrieval.bm25 import BM25Config, BM25Retriever
from calibadv.retrieval.corpus import Corpus, check_top_k
from calibadv.retrieval.manifest import MANIFEST
from calibadv.retrieval.opening import open_index

logger = logging.getLogger(__name__)

WORTH_AN_INDEX = 200_000
"""Documents from which on an index in memory, made anew each time, earns a warning."""


class IndexedRetriever(Retriever, Protocol):
    """A retriever that can say what it searches."""

    def manifest(self) -> dict[str, Any]: ...

    @property
    def version(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankConfig:
    """A second look at what was found, by a cross-encoder."""

    model: Path | str | None = None
    """A folder or a hub id; not set: no re-ranking."""
    candidates: int = 20
    """Documents that are found for each query and re-ranked (the paper's 20)."""
    max_length: int = 512
    """Tokens of query and document together; the rest is cut."""
    batch_size: int = 64
    """Pairs scored at once."""

    def __post_init__(self) -> None:
        for name in ("candidates", "max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"retrieval.rerank.{name} must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """How servers are asked. A token comes from the environment (CALIBADV_RETRIEVER_TOKEN), never from here."""

    dialect: Literal["search-r1", "calibadv"] = "search-r1"
    """"calibadv" lets the server re-rank; our own server speaks both."""
    timeout_s: float = 60.0
    """Seconds that one request may take."""
    retries: int = 6
    """How often a failed request is put again, with growing waits, before the search fails."""
    wait_s: float = 600.0
    """Seconds to wait at the start for servers that are still loading."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"retrieval.remote.timeout_s must be > 0, got {self.timeout_s}")
        if self.retries < 0:
            raise ConfigError(f"retrieval.remote.retries must be >= 0, got {self.retries}")
        if not self.wait_s >= 0:
            raise ConfigError(f"retrieval.remote.wait_s must be >= 0, got {self.wait_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig(Asking):
    """How a web search engine is asked in a run."""

    named: ClassVar[str] = "retrieval.web.{}"

    parameters: tuple[str, ...] = ()
    """Further fields of the engine's request, such as ``["gl=us", "hl=en"]``."""

    def __post_init__(self) -> None:
        Asking.__post_init__(self)
        for parameter in self.parameters:
            if not parameter.partition("=")[0] or "=" not in parameter:
                raise ConfigError(f'retrieval.web.parameters must be like "gl=us", got {parameter!r}')


@dataclass(frozen=True, slots=True, kw_only=True)
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
    online: Literal["google", "serpapi", "serper", "brave", "tavily"] | None = None
    """A web search engine; what it finds changes and costs money."""
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
    web: WebConfig = field(default_factory=WebConfig)
    """How ``online`` is asked."""

    def __post_init__(self) -> None:
        named = [name for name in ("corpus", "index", "url", "online") if getattr(self, name)]
        if len(named) != 1:
            raise ConfigError(
                "documents come from exactly one of retrieval.corpus (a file or folder), retrieval.index (a folder of "
                "calibadv index build), retrieval.url (a server) and retrieval.online (a web search engine); "
                f"got {' and '.join(named) or 'none'}"
            )
        if self.index_dir is not None and self.corpus is None:
            raise ConfigError(f"retrieval.index_dir belongs to retrieval.corpus; retrieval.{named[0]} does not use it")
        if self.encoder is not None and self.index is None and self.method == "bm25":
            raise ConfigError(f"retrieval.encoder belongs to a dense index; retrieval.{named[0]} does not use it")

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()


def open_retriever(config: RetrievalConfig, *, top_k: int) -> IndexedRetriever:
    """Open what ``config`` names, building BM25 where it has to; the corpus must have ``top_k`` documents."""
    if config.online is not None:
        retriever = _open_online(config, top_k=top_k)
    else:
        retriever = _open_remote(config) if config.url else _open_local(config, top_k=top_k)
    if config.rerank.model is None:
        return retriever
    from calibadv.retrieval.rerank import CrossEncoderReranker, RerankedRetriever

    reranker = CrossEncoderReranker(
        config.rerank.model,
        device=_device(config),
        max_length=config.rerank.max_length,
        batch_size=config.rerank.batch_size,
    )
    return RerankedRetriever(retriever, reranker, candidates=config.rerank.candidates)


def _open_remote(config: RetrievalConfig) -> IndexedRetriever:
    from calibadv.retrieval.remote import RemoteRetriever

    remote = config.remote
    retriever = RemoteRetriever(config.urls, dialect=remote.dialect, timeout_s=remote.timeout_s, retries=remote.retries)
    retriever.wait_until_ready(remote.wait_s)
    return retriever


def _open_online(config: RetrievalConfig, *, top_k: int) -> IndexedRetriever:
    from calibadv.retrieval.online import ENGINES, OnlineConfig, open_online

    assert config.online is not None
    wanted = {"rollout.top_k": top_k}
    if config.rerank.model is not None:
        wanted["retrieval.rerank.candidates"] = config.rerank.candidates
    for name, number in wanted.items():
        if number > (most := ENGINES[config.online].max_results):
            raise ConfigError(f"{name} must be <= {most} for {config.online}, got {number}")
    shared = {setting.name: getattr(config.web, setting.name) for setting in fields(Asking)}
    parameters = dict(parameter.split("=", 1) for parameter in config.web.parameters)
    settings = OnlineConfig(**shared, parameters=parameters)
    return open_online(config.online, config=settings)


def _open_local(config: RetrievalConfig, *, top_k: int) -> IndexedRetriever:
    if config.index is not None:
        retriever = open_index(config.index, encoder=config.encoder, device=_device(config))
        check_top_k(top_k, num_documents=len(retriever.corpus))
        return retriever
    assert config.corpus is not None
    corpus = Corpus.read(config.corpus)
    check_top_k(top_k, num_documents=len(corpus))
    return _search_corpus(corpus, config)


def _search_corpus(corpus: Corpus, config: RetrievalConfig) -> IndexedRetriever:
    """The index of a corpus: where it was built, or a new one of BM25."""
    index_dir = config.index_dir
    if config.method == "bm25" and index_dir is not None:
        logger.info("Opening the BM25 index %s over %d documents of %s", index_dir, len(corpus), corpus.name)
        return BM25Retriever.open_or_build(corpus, index_dir=index_dir, config=config.bm25)
    if index_dir is None and corpus.path is not None:
        index_dir = corpus.path / config.method
    if index_dir is not None and (index_dir / MANIFEST).exists():
        return _open_method(index_dir, corpus, config)
    if config.method != "bm25":
        raise ConfigError(
            f'retrieval.method = "{config.method}" needs an index of {corpus.name}, and there is none'
            + (f" in {index_dir}" if index_dir is not None else "")
            + f"; make one: calibadv index build CORPUS_DIR --method {config.method}"
        )
    if len(corpus) > WORTH_AN_INDEX:
        logger.warning(
            "Indexing %d documents in memory, as each time; calibadv index build does it once and needs less memory",
            len(corpus),
        )
    logger.info("Building a BM25 index over %d documents of %s in memory", len(corpus), corpus.name)
    return BM25Retriever.from_documents(corpus, config=config.bm25)


def _open_method(index_dir: Path, corpus: Corpus, config: RetrievalConfig) -> IndexedRetriever:
    retriever = open_index(index_dir, corpus=corpus, encoder=config.encoder, device=_device(config))
    method = retriever.manifest()["method"]
    if method != config.method:
        raise ConfigError(
            f'{index_dir} is a {method} index, and retrieval.method is "{config.method}"; name another one'
        )
    if isinstance(retriever, BM25Retriever) and retriever.config != config.bm25:
        raise ConfigError(
            f"{index_dir} was built with {retriever.config}, and [retrieval.bm25] says {config.bm25}; set "
            "retrieval.index_dir to another folder"
        )
    logger.info("Opened the %s index %s over %d documents", method, index_dir, len(corpus))
    return retriever


def _device(config: RetrievalConfig) -> str | None:
    return None if config.device == "auto" else config.device
