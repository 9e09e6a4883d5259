"""From one kind of index to another, and from published FAISS files to index folders, without encoding again.

The source is an index folder of ours or a FAISS file. A file of plain vectors (``e5_Flat.index``, 64 GB) is read in
chunks and never loaded; what other kinds store is reconstructed row by row, which is as exact as their codes. With
``as-is`` the published file itself becomes the index of a folder, memory-mapped where it lies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder_config import EncoderConfig, EncoderSpec, describe, published
from calibadv.retrieval.dense.faiss_build import VectorSource, assemble
from calibadv.retrieval.dense.folder import INDEX, VECTORS, open_index_file, write_manifest
from calibadv.retrieval.dense.kinds import IndexParameters, Kind, check_kind, num_probes, parameters_for
from calibadv.retrieval.dense.vector_file import VectorFile, VectorWriter, import_faiss, read_index
from calibadv.retrieval.index.folder import check_new_folder, corpus_of
from calibadv.retrieval.index.manifest import IndexManifest

logger = logging.getLogger(__name__)

Target = Literal["flat", "fp16", "sq8", "hnsw", "ivf-sq8", "ivf-pq", "as-is"]
Keep = Literal["reference", "copy", "none"]
_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class ReconstructedVectors:
    """The vectors of any FAISS index, as exact as it stores them."""

    index: Any
    num_vectors: int
    dimension: int

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start to stop."""
        rows: NDArray[np.float32] = self.index.reconstruct_n(start, min(stop, self.num_vectors) - start)
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is converted."""

    path: Path
    """The FAISS file, or the file with the vectors of an index folder."""
    source: VectorSource
    plain: VectorFile | None
    """The file, when it holds the vectors as they are."""
    manifest: IndexManifest | None = None
    """Of the index folder."""
    folder: Path | None = None


def open_origin(path: Path) -> Origin:
    """An index folder or a FAISS file, ready to be read row by row."""
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; name a FAISS file or an index folder")
    index = read_index(path)
    plain = VectorFile.of(index, path=path)
    return Origin(path=path, source=plain or _reconstructed(path, index), plain=plain)


def convert_file(origin: Path, *, to: Kind, out: Path) -> IndexParameters:
    """A FAISS file of another kind, without corpus and manifest: for programs that use FAISS themselves."""
    found = open_origin(origin)
    if out.exists():
        raise ConfigError(f"{out} exists; name another file (--out)")
    parameters = _parameters(found, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    assemble(found.source, parameters=parameters, path=out)
    return parameters


def convert_index(
    origin: Path,
    *,
    to: Target,
    out: Path,
    corpus: Corpus | None = None,
    encoder: EncoderConfig | None = None,
    keep: Keep = "reference",
) -> IndexManifest:
    """An index folder of another kind. A FAISS file needs its ``corpus`` and ``encoder``; a folder knows its own.

    ``keep`` says what becomes of the vectors: the new index refers to the file they are in, has a copy of its own
    (float16), or does without (no re-scoring).
    """
    found = open_origin(origin)
    if found.manifest is not None and found.folder is not None:
        corpus = corpus_of(found.folder, found.manifest, corpus=corpus)
        spec = EncoderSpec.from_parameters(found.manifest.parameters.get("encoder"), where=str(origin))
    else:
        if corpus is None or encoder is None:
            raise ConfigError(
                f"{origin}: a FAISS file does not know its corpus and encoder; name them (--corpus, --encoder)"
            )
        spec = encoder_spec(encoder, dimension=found.source.dimension)
    if len(corpus) != found.source.num_vectors:
        raise DataError(
            f"{origin}: {found.source.num_vectors:,} vectors, but the corpus has {len(corpus):,} documents; "
            "name the corpus that was encoded (--corpus)"
        )
    check_new_folder(out)
    if to == "as-is":
        out.mkdir(parents=True, exist_ok=True)
        return adopt(found, corpus=corpus, spec=spec, out=out)
    parameters = _parameters(found, to)
    out.mkdir(parents=True, exist_ok=True)
    vectors = _kept_vectors(found, keep, out=out)
    index_path = out / INDEX
    if vectors is not None and (to, vectors.dtype) in (("flat", "float32"), ("fp16", "float16")):
        index_path = vectors.path
    else:
        assemble(found.source, parameters=parameters, path=index_path)
    return write_manifest(
        corpus,
        index_dir=out,
        spec=spec,
        parameters=parameters,
        index_path=index_path,
        vectors_path=None if vectors is None else vectors.path,
    )


def adopt(found: Origin, *, corpus: Corpus, spec: EncoderSpec, out: Path) -> IndexManifest:
    """An index folder around a FAISS file as it is; the file stays where it lies."""
    parameters = _parameters_of_file(found)
    return write_manifest(
        corpus,
        index_dir=out,
        spec=spec,
        parameters=parameters,
        index_path=found.path,
        vectors_path=found.path if found.plain is not None else None,
    )


def encoder_spec(config: EncoderConfig, *, dimension: int) -> EncoderSpec:
    """The encoder of published vectors: by its files, or by its name where they are not at hand."""
    try:
        spec = describe(config)
    except ConfigError as error:
        if Path(config.model).exists():
            raise
        spec = published(config, dimension=dimension)
        logger.warning("%s is not at hand, so only its name and dimension are checked later (%s)", config.model, error)
    if spec.dimension != dimension:
        raise ConfigError(
            f"the encoder's model {config.model} has dimension {spec.dimension}, the vectors have {dimension}; "
            "name the encoder that made them (--encoder)"
        )
    return spec


def _open_folder(folder: Path) -> Origin:
    manifest = IndexManifest.read(folder)
    if manifest.method != "dense":
        raise DataError(f"{folder}: a {manifest.method} index has no vectors to convert; name a dense one")
    kept = manifest.parameters.get("vectors")
    if kept is not None:
        vectors = VectorFile.open(folder / kept["file"])
        return Origin(path=vectors.path, source=vectors, plain=vectors, manifest=manifest, folder=folder)
    index = open_index_file(folder, manifest)
    logger.warning("%s kept no vectors: the new index is made from its codes, and is as exact as they are", folder)
    path = folder / manifest.parameters["index"]["file"]
    return Origin(path=path, source=_reconstructed(path, index), plain=None, manifest=manifest, folder=folder)


def _reconstructed(path: Path, index: Any) -> ReconstructedVectors:
    faiss = import_faiss()
    try:
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        if isinstance(index, faiss.IndexIDMap):
            raise DataError(
                f"{path}: it has ids of its own (IDMap), but rows must be rows of the corpus; export it without"
            )
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise DataError(f"{path}: it compares by distance; only inner-product indexes are supported")
        if index.ntotal:
            index.reconstruct_n(0, 1)
    except RuntimeError as error:
        raise DataError(f"{path}: the vectors of a {type(index).__name__} cannot be read") from error
    return ReconstructedVectors(index, index.ntotal, index.d)


def _parameters(found: Origin, to: Kind) -> IndexParameters:
    check_kind(to, num_vectors=found.source.num_vectors)
    return parameters_for(to, num_vectors=found.source.num_vectors, dimension=found.source.dimension)


def _parameters_of_file(found: Origin) -> IndexParameters:
    """What a published file is, in our words."""
    sizes: dict[str, Any] = {"num_vectors": found.source.num_vectors, "dimension": found.source.dimension}
    if found.plain is not None:
        return IndexParameters(kind="flat" if found.plain.dtype == "float32" else "fp16", **sizes)
    faiss = import_faiss()
    index = getattr(found.source, "index", None)
    if isinstance(index, faiss.IndexHNSW):
        links = index.hnsw.nb_neighbors(1)
        search, construction = max(128, index.hnsw.efSearch), index.hnsw.efConstruction
        return IndexParameters(kind="hnsw", links=links, ef_search=search, ef_construction=construction, **sizes)
    if isinstance(index, faiss.IndexIVF):
        kind: Kind = "ivf-pq" if isinstance(index, faiss.IndexIVFPQ) else "ivf-sq8"
        code = index.code_size if kind == "ivf-pq" else 0
        probes = max(index.nprobe, num_probes(index.nlist))
        return IndexParameters(kind=kind, nlist=index.nlist, nprobe=probes, pq_bytes=code, **sizes)
    if isinstance(index, faiss.IndexScalarQuantizer):
        return IndexParameters(kind="sq8", **sizes)
    raise DataError(f"{found.path}: a {type(index).__name__} cannot be used as it is; convert it to another kind")


def _kept_vectors(found: Origin, keep: Keep, *, out: Path) -> VectorFile | None:
    if keep == "none":
        return None
    if keep == "reference":
        return found.plain
    path = out / VECTORS
    writer = VectorWriter(path, dtype="float16", dimension=found.source.dimension)
    try:
        for start in range(0, found.source.num_vectors, _ROWS):
            writer.write(found.source.read(start, start + _ROWS))
        writer.finish()
    finally:
        writer.close()
    return VectorFile.open(path)
