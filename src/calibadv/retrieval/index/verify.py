"""Is an index what its manifest says, and of this corpus? Reads every byte that can be compared with something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.hybrid import part_folders, read_manifest
from calibadv.retrieval.index.folder import FILES, FileList, corpus_of
from calibadv.retrieval.index.manifest import IndexManifest

Progress = Callable[[str, int, int], None]
"""Called with what is being read, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    problem: str = ""
    """What is wrong, with the remedy; empty when nothing is."""
    figures: str = ""
    """What was found."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problem


def verify_index(
    index_dir: Path | str, *, corpus: Corpus | None = None, encoder: str | None = None, progress: Progress | None = None
) -> list[Check]:
    """Every check of the index in ``index_dir``; a later one is made even when an earlier one fails.

    ``corpus`` and ``encoder`` (of a dense index) where they are not at the manifest's place; ``progress`` is told about
    what takes long. A folder without a readable manifest is an error.
    """
    index_dir = Path(index_dir)
    manifest = IndexManifest.read(index_dir)
    found: list[Corpus] = []

    def check_corpus() -> str:
        found.append(corpus_of(index_dir, manifest, corpus=corpus))
        if found[0].path is not None:
            found[0].verify(progress=_named(progress, "the corpus"))
        return f"{manifest.num_documents:,} documents, sha256 {manifest.corpus_sha256[:12]}"

    checks = [_checked("corpus", check_corpus)]
    steps = {"bm25": _bm25_steps, "dense": _dense_steps, "hybrid": _hybrid_steps}[manifest.method]
    return checks + [_checked(name, step) for name, step in steps(index_dir, manifest, encoder, progress)]


def _checked(name: str, step: Callable[[], str]) -> Check:
    try:
        return Check(name=name, figures=step())
    except (DataError, ConfigError, RetrieverError, OSError) as error:
        return Check(name=name, problem=str(error))


Steps = Iterator[tuple[str, Callable[[], str]]]


def _bm25_steps(index_dir: Path, manifest: IndexManifest, encoder: str | None, progress: Progress | None) -> Steps:
    from calibadv.retrieval.bm25.retriever import open_engine, read_manifest

    def files() -> str:
        return _compare(FileList.read(index_dir), index_dir, progress)

    def engine() -> str:
        read_manifest(index_dir)
        index = open_engine(index_dir, num_documents=manifest.num_documents)
        return f"{index.searcher().num_docs:,} documents in {index.searcher().num_segments} segments"

    yield "files", files
    yield "engine", engine


def _dense_steps(index_dir: Path, manifest: IndexManifest, encoder: str | None, progress: Progress | None) -> Steps:
    from calibadv.retrieval.dense.encoder_config import EncoderSpec, describe
    from calibadv.retrieval.dense.folder import check_encoder, open_index_file, open_vectors, part_files

    def index() -> str:
        opened = open_index_file(index_dir, manifest)
        return (
            f"{opened.ntotal:,} vectors of dimension {opened.d}, {manifest.parameters['index']['bytes'] / 1e6:,.1f} MB"
        )

    def vectors() -> str:
        record = manifest.parameters.get("vectors")
        if record is None:
            return "not kept"
        path = index_dir / record["file"]
        opened = open_vectors(path, manifest=manifest)
        if path.stat().st_size != record["bytes"]:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes, not {record['bytes']:,}; build the index again")
        return f"{opened.num_vectors:,} vectors of dimension {opened.dimension}"

    def files() -> str:
        names = part_files(manifest, where=index_dir)
        listed = FileList.read(index_dir, elsewhere=names)
        if missing := [name for name in names if name not in listed.files]:
            raise DataError(f"{index_dir / FILES}: does not list {missing[0]}; build the index again")
        return _compare(listed, index_dir, progress)

    def conventions() -> str:
        indexed = EncoderSpec.from_parameters(manifest.parameters.get("encoder"), where=str(index_dir))
        check_encoder(describe(indexed.config(model=encoder)), manifest, where=index_dir)
        return f"{encoder or indexed.model}, {indexed.pooling} pooling, dimension {indexed.dimension}"

    yield "index", index
    yield "vectors", vectors
    yield "files", files
    yield "encoder", conventions


def _hybrid_steps(index_dir: Path, manifest: IndexManifest, encoder: str | None, progress: Progress | None) -> Steps:
    manifest, folders = read_manifest(index_dir), part_folders(index_dir)
    for name, version in manifest.parameters["parts"].items():
        if name not in folders:
            raise DataError(f"{index_dir}: does not say where its part {name!r} is; build the hybrid again")
        folder = folders[name]

        def identity(folder: Path = folder, version: str = version) -> str:
            part = IndexManifest.read(folder)
            if part.version != version:
                raise DataError(f"{folder} is not the index the hybrid was made of; build the hybrid again")
            return f"{folder}, version {version[:12]}"

        yield name, identity
        part = IndexManifest.read(folder)
        steps = _bm25_steps if part.method == "bm25" else _dense_steps
        for step_name, step in steps(folder, part, encoder, progress):
            yield f"{name} {step_name}", step


def _compare(listed: FileList, index_dir: Path, progress: Progress | None) -> str:
    listed.check_digests(index_dir, progress=_named(progress, f"the files of {index_dir.name}"))
    return f"{len(listed.files)} files, {listed.num_bytes / 1e6:,.1f} MB, all as they were built"


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(f"reading {what}", done, total)
