"""An index folder: putting it together from a file of vectors, and checking that its parts belong together.

``manifest.json`` (last to be written), ``vectors.faiss`` (the encoded documents, see `vectors`) and, unless they are
the index themselves, ``index.faiss``. An index made from a published file may name that file instead of a copy.
``files.json`` has the digests of these files.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibadv.errors import DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder_config import EncoderSpec
from calibadv.retrieval.dense.faiss_build import assemble
from calibadv.retrieval.dense.gpu_search import TorchIndex, gpu_for
from calibadv.retrieval.dense.kinds import IndexParameters, Kind, parameters_for, parameters_from
from calibadv.retrieval.dense.search import VectorIndex
from calibadv.retrieval.dense.vector_file import VectorFile, read_index
from calibadv.retrieval.index.folder import FileList, corpus_place
from calibadv.retrieval.index.manifest import IndexManifest

logger = logging.getLogger(__name__)

VECTORS = "vectors.faiss"
INDEX = "index.faiss"


def make_index(
    corpus: Corpus, *, index_dir: Path, kind: Kind, spec: EncoderSpec, source: Path, keep_vectors: bool
) -> IndexManifest:
    """Make the index of ``kind`` from a complete file of vectors and write the manifest."""
    vector_file = VectorFile.open(source)
    if vector_file.num_vectors != len(corpus):
        raise DataError(f"{source}: {vector_file.num_vectors:,} vectors for {len(corpus):,} documents")
    parameters = parameters_for(kind, num_vectors=vector_file.num_vectors, dimension=vector_file.dimension)
    is_its_own_index = (kind, vector_file.dtype) in (("flat", "float32"), ("fp16", "float16"))
    if not is_its_own_index:
        assemble(vector_file, parameters=parameters, path=index_dir / INDEX)
    keep_vectors = keep_vectors or is_its_own_index
    manifest = write_manifest(
        corpus,
        index_dir=index_dir,
        spec=spec,
        parameters=parameters,
        index_path=source if is_its_own_index else index_dir / INDEX,
        vectors_path=source if keep_vectors else None,
    )
    if not keep_vectors:
        source.unlink()
    return manifest


def write_manifest(
    corpus: Corpus,
    *,
    index_dir: Path,
    spec: EncoderSpec,
    parameters: IndexParameters,
    index_path: Path,
    vectors_path: Path | None,
) -> IndexManifest:
    """Describe the parts that are there; with this the folder is an index."""
    manifest = IndexManifest(
        method="dense",
        corpus=corpus_place(corpus, index_dir),
        corpus_sha256=corpus.sha256,
        num_documents=len(corpus),
        parameters={
            "encoder": spec.as_parameters(),
            "index": parameters.as_parameters() | file_record(index_path, index_dir),
            "vectors": None if vectors_path is None else file_record(vectors_path, index_dir),
        },
        versions=package_versions(),
    )
    list_files(index_dir, manifest).write(index_dir)
    manifest.write(index_dir)
    return manifest


def list_files(index_dir: Path, manifest: IndexManifest) -> FileList:
    """Size and digest of the files of an index as they are now; reads all of them."""
    logger.info("Reading the files of %s for their digests", index_dir)
    return FileList.of(index_dir, part_files(manifest, where=index_dir))


def part_files(manifest: IndexManifest, *, where: Path) -> list[str]:
    """The files of an index, relative to its folder; those it shares with another index lie outside."""
    index_parameters(manifest, where=where)
    records = [manifest.parameters["index"], manifest.parameters.get("vectors")]
    return list(dict.fromkeys(str(record.get("file", "")) for record in records if record))


def package_versions() -> dict[str, str]:
    """Versions of what made the vectors and the index."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("faiss-cpu", "faiss-gpu", "sentence-transformers", "torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def file_record(path: Path, index_dir: Path) -> dict[str, Any]:
    """A file of the index, by place and size."""
    return {"file": os.path.relpath(path, index_dir), "bytes": path.stat().st_size}


def index_parameters(manifest: IndexManifest, *, where: Path) -> IndexParameters:
    """Kind and parameters of a manifest."""
    return parameters_from(manifest.parameters.get("index"), num_vectors=manifest.num_documents, where=str(where))


def open_index_file(index_dir: Path, manifest: IndexManifest) -> Any:
    """The FAISS index, memory-mapped, after checking that it is whole and is the one the manifest describes."""
    parameters = index_parameters(manifest, where=index_dir)
    record = manifest.parameters["index"]
    path = index_dir / str(record.get("file", ""))
    if not path.is_file():
        raise DataError(f"{index_dir}: {path.name} is missing; build the index again, or put the file back")
    size = path.stat().st_size
    if size != record.get("bytes"):
        raise DataError(
            f"{path}: {size:,} bytes, not {record.get('bytes'):,} as when it was built: truncated or replaced; "
            "build the index again"
        )
    index = read_index(path)
    if (index.d, index.ntotal) != (parameters.dimension, parameters.num_vectors):
        raise DataError(
            f"{path}: {index.ntotal:,} vectors of dimension {index.d}, but the manifest says "
            f"{parameters.num_vectors:,} of dimension {parameters.dimension}; build the index again"
        )
    return index


def open_vector_index(index_dir: Path, manifest: IndexManifest, *, search_device: str = "cpu") -> VectorIndex:
    """Index and vectors of a folder, both memory-mapped and checked; or the vectors on a GPU, searched exactly."""
    kept = manifest.parameters.get("vectors")
    index = open_index_file(index_dir, manifest)
    parameters = index_parameters(manifest, where=index_dir)
    vectors = None if kept is None else open_vectors(index_dir / kept["file"], manifest=manifest)
    gpu = gpu_for(search_device, vectors=vectors, where=index_dir)
    if gpu is None or vectors is None:
        return VectorIndex(faiss_index=index, parameters=parameters, vectors=vectors)
    return VectorIndex(
        faiss_index=TorchIndex(vectors, device=gpu),
        parameters=replace(parameters, rescore=0),
        vectors=vectors,
    )


def check_encoder(spec: EncoderSpec, manifest: IndexManifest, *, where: Path) -> None:
    """Refuse to search with queries that were encoded by another model or convention than the documents."""
    indexed = EncoderSpec.from_parameters(manifest.parameters.get("encoder"), where=str(where))
    remedy = f"open the index with the encoder it was built with ({indexed.model}), or build it again"
    if spec.dimension != indexed.dimension:
        raise DataError(
            f"{where}: the encoder {spec.model} has dimension {spec.dimension}, the index {indexed.dimension}; {remedy}"
        )
    for name in ("fingerprint", "query_fingerprint"):
        old, new = getattr(indexed, name), getattr(spec, name)
        if old is not None and old != new:
            raise DataError(
                f"{where}: the files of the encoder {spec.model} are not those that encoded the index (its {name} is "
                f"{str(new)[:12]}, not {old[:12]}); {remedy}"
            )
    for name in ("pooling", "query_prefix", "passage_prefix", "normalize", "max_length", "document_text"):
        old, new = getattr(indexed, name), getattr(spec, name)
        if old != new and not (name == "pooling" and indexed.fingerprint is None):
            raise DataError(f"{where}: encoder.{name} is {new!r}, but the index was built with {old!r}; {remedy}")


def open_vectors(path: Path, *, manifest: IndexManifest) -> VectorFile:
    """The vectors that hits are re-scored with."""
    if not path.is_file():
        raise DataError(
            f"{path}: the vectors that hits are re-scored with are missing; put the file back, or build again"
        )
    vectors = VectorFile.open(path)
    if vectors.num_vectors != manifest.num_documents:
        raise DataError(
            f"{path}: {vectors.num_vectors:,} vectors, but the index has {manifest.num_documents:,}; build it again"
        )
    return vectors
