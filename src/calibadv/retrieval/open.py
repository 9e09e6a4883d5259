"""Opening retrievers: what the [retrieval] section of a run names, or an index folder as what its manifest says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from calibadv.errors import ConfigError, DataError
from calibadv.io.retry import NO_RETRY, Retry
from calibadv.retrieval.base import IndexedRetriever, Retriever
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.config import RetrievalConfig
from calibadv.retrieval.corpus.corpus import Corpus, check_top_k
from calibadv.retrieval.corpus.manifest import CORPUS
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.hybrid import HybridRetriever, part_folders
from calibadv.retrieval.index.folder import corpus_of, find_corpus
from calibadv.retrieval.index.manifest import MANIFEST, IndexManifest
from calibadv.retrieval.plugin import checked, open_plugin

if TYPE_CHECKING:
    from calibadv.retrieval.dense.retriever import DenseRetriever


logger = logging.getLogger(__name__)

WORTH_AN_INDEX = 200_000
"""Documents from which on an index in memory, made again each time, is warned about."""


def open_retriever(config: RetrievalConfig, *, top_k: int, retry: Retry = NO_RETRY) -> IndexedRetriever:
    """Open what ``config`` names, building BM25 where it has to; the corpus must have ``top_k`` documents.

    ``retry`` is for retrievers that ask servers; rollouts retry by themselves.
    """
    retriever: IndexedRetriever
    if config.retriever is not None:
        retriever = open_plugin(config.retriever)
    elif config.online is not None:
        retriever = _open_online(config, top_k=top_k, retry=retry)
    else:
        retriever = _open_remote(config, retry=retry) if config.url else _open_local(config, top_k=top_k)
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


@contextmanager
def opened_retriever(
    config: RetrievalConfig, *, top_k: int, retry: Retry = NO_RETRY, given: Retriever | None = None
) -> Iterator[Retriever]:
    """What `open_retriever` opens, closed at the end; or ``given``, its results checked, which stays its owner's."""
    if given is not None:
        yield checked(given)
        return
    retriever = open_retriever(config, top_k=top_k, retry=retry)
    try:
        yield retriever
    finally:
        if (close := getattr(retriever, "close", None)) is not None:
            close()


def _open_remote(config: RetrievalConfig, *, retry: Retry) -> IndexedRetriever:
    from calibadv.retrieval.client.retriever import RemoteRetriever

    remote = config.remote
    retriever = RemoteRetriever(config.urls, dialect=remote.dialect, timeout_s=remote.timeout_s, retry=retry)
    retriever.wait_until_ready(remote.wait_s)
    return retriever


def _open_online(config: RetrievalConfig, *, top_k: int, retry: Retry) -> IndexedRetriever:
    from calibadv.retrieval.web import open_online
    from calibadv.retrieval.web.providers import find_provider

    assert config.online is not None
    provider = find_provider(config.online)
    wanted = {"rollout.top_k": top_k}
    if config.rerank.model is not None:
        wanted["retrieval.rerank.candidates"] = config.rerank.candidates
    for name, number in wanted.items():
        if number > provider.max_results:
            raise ConfigError(f"{name} must be <= {provider.max_results} for {provider.name}, got {number}")
    return open_online(provider, config=config.web, retry=retry)


def _open_local(config: RetrievalConfig, *, top_k: int) -> IndexedRetriever:
    if config.index is not None:
        retriever = open_index(config.index, encoder=config.encoder, device=_device(config))
        check_top_k(top_k, num_documents=len(retriever.corpus))
        return retriever
    assert config.corpus is not None
    corpus = read_corpus(config.corpus)
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


def check_index(index_dir: Path, *, corpus: object = None, encoder: object = None) -> IndexManifest:
    """What the folder of an index says about it, when all that it needs is there; nothing is loaded.

    Args:
        index_dir: The folder.
        corpus: What is used in the place of the corpus that the manifest names.
        encoder: What is used in the place of the encoder that the manifest names.

    Raises:
        DataError: There is no index in it, or its corpus has moved; the message says what to do.
        ConfigError: Its encoder has moved.
    """
    if not index_dir.exists():
        raise DataError(f"{index_dir}: no such folder; make an index: calibadv index build CORPUS --method bm25")
    if (index_dir / CORPUS).exists() and not (index_dir / MANIFEST).exists():
        found = sorted(path.parent.name for path in index_dir.glob(f"*/{MANIFEST}"))
        remedy = f"name one of its indexes ({', '.join(found)})" if found else "make one: calibadv index build"
        raise DataError(f"{index_dir} is a corpus, not an index; {remedy}")
    manifest = IndexManifest.read(index_dir)
    if corpus is None:
        find_corpus(index_dir, manifest)
    if encoder is None:
        folders = part_folders(index_dir).values() if manifest.method == "hybrid" else [index_dir]
        for folder in folders:
            _check_encoder(folder)
    return manifest


def _check_encoder(index_dir: Path) -> None:
    model = dict(IndexManifest.read(index_dir).parameters.get("encoder") or {}).get("model")
    if isinstance(model, str) and Path(model).is_absolute() and not Path(model).is_dir():
        raise ConfigError(
            f"{index_dir}: its encoder is not at {model} any more; name where it is (--encoder, retrieval.encoder)"
        )


def open_index(
    index_dir: Path | str,
    *,
    corpus: Corpus | Path | str | None = None,
    encoder: Path | str | None = None,
    device: str | None = None,
    search_device: str = "cpu",
) -> BM25Retriever | DenseRetriever | HybridRetriever:
    """Open the index in ``index_dir``.

    ``corpus``, opened or as a path, and ``encoder`` (of a dense index) where they are not at the manifest's place;
    ``device`` runs the encoder, ``search_device`` compares its vectors (see `DenseRetriever.open`). Whatever does not
    belong together is an error: another corpus, cut-off files, another encoder.
    """
    index_dir = Path(index_dir)
    manifest = check_index(index_dir, corpus=corpus, encoder=encoder)
    if isinstance(corpus, Path | str):
        corpus = read_corpus(corpus)
    corpus = corpus_of(index_dir, manifest, corpus=corpus)
    if manifest.method == "bm25" and search_device not in ("auto", "cpu"):
        raise ConfigError(
            f"search_device {search_device}: {index_dir} is a BM25 index, which has no vectors; leave the option out"
        )

    if manifest.method == "bm25" and encoder is not None:
        raise ConfigError(f"encoder {encoder}: {index_dir} is a BM25 index, which has none; leave the option out")

    def open_part(folder: Path) -> BM25Retriever | DenseRetriever:
        if IndexManifest.read(folder).method == "bm25":
            return BM25Retriever.open(folder, corpus=corpus)
        from calibadv.retrieval.dense.retriever import DenseRetriever

        model = None if encoder is None else str(encoder)
        return DenseRetriever.open(folder, corpus=corpus, encoder=model, device=device, search_device=search_device)

    return HybridRetriever.open(index_dir, open_part=open_part) if manifest.method == "hybrid" else open_part(index_dir)
