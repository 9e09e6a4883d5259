"""`build_index`: make a corpus searchable, by words, by vectors, or by both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from calibadv.config_class import PositiveInt, config_class
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.retrieval.bm25 import BM25Config, build_bm25
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder_config import EncoderConfig, describe
from calibadv.retrieval.dense.kinds import Kind
from calibadv.retrieval.dense.sizing import parse_size, plan_kind
from calibadv.retrieval.hybrid import HybridConfig, write_hybrid
from calibadv.retrieval.index.folder import check_new_folder, corpus_place
from calibadv.retrieval.index.manifest import MANIFEST, IndexManifest
from calibadv.retrieval.open import open_index
from calibadv.runs.progress import Tell, about

logger = logging.getLogger(__name__)

Method = Literal["bm25", "dense", "hybrid"]


@config_class()
class IndexConfig:
    """Which index is made of a corpus."""

    method: Method = "bm25"
    """By words, by vectors, or by both with their lists fused."""
    threads: PositiveInt | None = None
    """For indexing words. Not set: up to one a CPU."""
    kind: Kind | None = None
    """What is stored of a vector. Not set: flat."""
    memory: str | None = None
    """Choose the best kind that fits into it, such as 8GiB."""
    vectors: bool = True
    """Keep the vectors beside the index that was made of them."""
    bm25: Path | None = None
    """BM25 index of a hybrid, built if absent. Not set: CORPUS/bm25."""
    dense: Path | None = None
    """Dense index of a hybrid, built if absent. Not set: CORPUS/dense."""

    def __post_init__(self) -> None:
        if self.kind is not None and self.memory is not None:
            raise ConfigError("--kind and --memory both choose the kind of index; give one of them")


def build_index(
    corpus: Corpus,
    *,
    out: Path,
    config: IndexConfig | None = None,
    bm25: BM25Config | None = None,
    encoder: EncoderConfig | None = None,
    hybrid: HybridConfig | None = None,
    progress: Tell | None = None,
) -> IndexManifest:
    """Build an index of a corpus folder; a dense build that was stopped is continued.

    Args:
        corpus: The documents.
        out: Folder of the index.
        config: Which index is made.
        bm25: What BM25 reads.
        encoder: What makes the vectors; "dense" needs it, and "hybrid" when its dense part is not there yet.
        hybrid: How the two lists are fused.
        progress: Told how far it is.

    Raises:
        ConfigError: A setting is impossible, or ``out`` holds something else.
    """
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    config = config or IndexConfig()

    def words(folder: Path) -> IndexManifest:
        tell = about(progress, "indexing words")
        return build_bm25(corpus, out=folder, config=bm25 or BM25Config(), threads=config.threads, progress=tell)

    def vectors(folder: Path) -> IndexManifest:
        return _build_dense(corpus, folder, config=config, encoder=encoder, progress=progress)

    make = {"bm25": words, "dense": vectors}
    if config.method != "hybrid":
        return make[config.method](out)
    return _build_hybrid(corpus, out, config=config, make=make, encoder=encoder, hybrid=hybrid or HybridConfig())


def _build_dense(
    corpus: Corpus,
    out: Path,
    *,
    config: IndexConfig,
    encoder: EncoderConfig | None,
    progress: Tell | None,
) -> IndexManifest:
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a dense index")
    from calibadv.retrieval.dense.build import build_dense

    if encoder is None:
        raise ConfigError("--encoder is missing: name a folder or a hub id, such as intfloat/e5-base-v2")
    dimension = describe(encoder).dimension  # an encoder that is not there leaves no folder behind
    kind = config.kind
    if config.memory is not None:
        plan = plan_kind(len(corpus), dimension=dimension, memory_bytes=parse_size(config.memory))
        logger.info("%s", plan.why)
        kind = plan.kind
    return build_dense(
        corpus,
        index_dir=out,
        encoder_config=encoder,
        kind=kind or "flat",
        keep_vectors=config.vectors,
        progress=about(progress, "encoding"),
    )


def _build_hybrid(
    corpus: Corpus,
    out: Path,
    *,
    config: IndexConfig,
    make: Mapping[str, Callable[[Path], IndexManifest]],
    encoder: EncoderConfig | None,
    hybrid: HybridConfig,
) -> IndexManifest:
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a hybrid index")
    check_new_folder(out)
    assert corpus.path is not None, "an index belongs to a corpus folder"
    folders = {"bm25": config.bm25 or corpus.path / "bm25", "dense": config.dense or corpus.path / "dense"}
    for name, build in make.items():
        if not (folders[name] / MANIFEST).exists():
            build(folders[name])
        elif name == "dense":
            check_encoder(folders[name], encoder)
    device = None if encoder is None else encoder.device
    opened: Any = {name: open_index(folder, corpus=corpus, device=device) for name, folder in folders.items()}
    return write_hybrid(folders, parts=opened, out=out, place=corpus_place(corpus, out), config=hybrid)


def check_encoder(dense: Path, encoder: EncoderConfig | None) -> None:
    """Refuse an index that is there already but is of another encoder than the one asked for."""
    built_with = str(IndexManifest.read(dense).parameters.get("encoder", {}).get("model"))
    named = built_with if encoder is None else encoder.model
    if built_with != named and Path(built_with).absolute() != Path(named).absolute():
        raise ConfigError(
            f"--encoder {named}: the dense index in {dense} was built with {built_with}; leave the option out to use "
            "that index, or name the folder of another one (--dense)"
        )
    logger.info("Using the dense index in %s", dense)


def open_corpus(path: Path) -> Corpus:
    """The corpus folder; a file is refused with the command that makes a folder of it."""
    if path.is_file():
        folder = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        raise ConfigError(
            f"{path} is a file, and an index belongs to a corpus folder; make one first: "
            f"calibadv corpus import {path} --out corpora/{folder}"
        )
    return Corpus.open(path)


def describe_index(folder: Path) -> dict[str, Any]:
    """What an index is: method, parameters, corpus, size; as plain values."""
    manifest = IndexManifest.read(folder)
    return {
        "method": manifest.method,
        "documents": manifest.num_documents,
        "bytes": folder_bytes(folder),
        "corpus": manifest.corpus,
        "corpus_sha256": manifest.corpus_sha256,
        "version": manifest.version,
        "parameters": dict(manifest.parameters),
        "versions": dict(manifest.versions),
    }


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
