"""`build_index`: make a corpus searchable, by words, by vectors, or by both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

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


def build_index(
    corpus: Corpus,
    *,
    out: Path,
    method: Method = "bm25",
    bm25: BM25Config | None = None,
    encoder: EncoderConfig | None = None,
    kind: Kind | None = None,
    memory: str | None = None,
    keep_vectors: bool = True,
    hybrid: HybridConfig | None = None,
    parts: Mapping[str, Path] | None = None,
    threads: int | None = None,
    progress: Tell | None = None,
) -> IndexManifest:
    """Build an index of a corpus folder; a dense build that was stopped is continued.

    Args:
        corpus: The documents.
        out: Folder of the index.
        method: Words, vectors, or both with their lists fused.
        bm25: What BM25 reads and how it weighs.
        encoder: What makes the vectors; "dense" needs it, and "hybrid" when its dense part is not there yet.
        kind: What is stored of a vector. Not set: flat.
        memory: Choose the best kind that fits into it, such as "8GiB".
        keep_vectors: Keep the vectors beside the index that was made of them.
        hybrid: How the two lists are fused.
        parts: "bm25" and "dense" -> their folders, for "hybrid"; what is not there is built.
        threads: For indexing words. Not set: up to one a CPU.
        progress: Told how far it is.

    Raises:
        ConfigError: A setting is impossible, or ``out`` holds something else.
    """
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    make: dict[str, Callable[[Path], IndexManifest]] = {
        "bm25": lambda folder: build_bm25(
            corpus, out=folder, config=bm25 or BM25Config(), threads=threads, progress=about(progress, "indexing words")
        ),
        "dense": lambda folder: _build_dense(
            corpus, folder, encoder=encoder, kind=kind, memory=memory, keep_vectors=keep_vectors, progress=progress
        ),
    }
    if method != "hybrid":
        return make[method](out)
    return _build_hybrid(corpus, out, parts=parts or {}, make=make, encoder=encoder, config=hybrid or HybridConfig())


def _build_dense(
    corpus: Corpus,
    out: Path,
    *,
    encoder: EncoderConfig | None,
    kind: Kind | None,
    memory: str | None,
    keep_vectors: bool,
    progress: Tell | None,
) -> IndexManifest:
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a dense index")
    from calibadv.retrieval.dense.build import build_dense

    if encoder is None:
        raise ConfigError("--encoder is missing: name a folder or a hub id, such as intfloat/e5-base-v2")
    dimension = describe(encoder).dimension  # an encoder that is not there leaves no folder behind
    if memory is not None:
        plan = plan_kind(len(corpus), dimension=dimension, memory_bytes=parse_size(memory))
        logger.info("%s", plan.why)
        kind = plan.kind
    return build_dense(
        corpus,
        index_dir=out,
        encoder_config=encoder,
        kind=kind or "flat",
        keep_vectors=keep_vectors,
        progress=about(progress, "encoding"),
    )


def _build_hybrid(
    corpus: Corpus,
    out: Path,
    *,
    parts: Mapping[str, Path],
    make: Mapping[str, Callable[[Path], IndexManifest]],
    encoder: EncoderConfig | None,
    config: HybridConfig,
) -> IndexManifest:
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a hybrid index")
    check_new_folder(out)
    assert corpus.path is not None, "an index belongs to a corpus folder"
    folders = {name: parts.get(name) or corpus.path / name for name in make}
    for name, build in make.items():
        if not (folders[name] / MANIFEST).exists():
            build(folders[name])
        elif name == "dense":
            check_encoder(folders[name], encoder)
    device = None if encoder is None else encoder.device
    opened: Any = {name: open_index(folder, corpus=corpus, device=device) for name, folder in folders.items()}
    return write_hybrid(folders, parts=opened, out=out, place=corpus_place(corpus, out), config=config)


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
