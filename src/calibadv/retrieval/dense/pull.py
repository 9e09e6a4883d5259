"""Fetch a published corpus with its published FAISS index: wiki-18 as Search-R1 and its successors use it.

``OUT/corpus`` is the corpus folder, ``OUT/flat`` (or ``OUT/hnsw64``) the index folder around the published file, which
is memory-mapped as it is. Everything can be interrupted: the same command continues, with the revisions it began with.
"""

from __future__ import annotations

import gzip
import logging
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from calibadv.config_class import config_class
from calibadv.errors import ConfigError, DataError
from calibadv.io.files import new_file, read_json, write_json
from calibadv.io.hub import HubFile, HubFiles, list_files
from calibadv.io.retry import Retry
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import ImportConfig, import_corpus
from calibadv.retrieval.dense.convert import adopt, encoder_spec, open_origin
from calibadv.retrieval.dense.download import DOWNLOAD_RETRY, bytes_at_hand, fetch
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.sizing import format_size
from calibadv.retrieval.index.manifest import MANIFEST, IndexManifest

logger = logging.getLogger(__name__)

STATE = "pull.json"
WITHOUT_A_HUB = (
    "behind a mirror set HF_ENDPOINT, to log in HF_TOKEN. On a machine without a network fetch the files elsewhere, "
    "join the parts (cat part_* > e5_Flat.index), and then: calibadv corpus import wiki-18.jsonl.gz --out CORPUS; "
    "calibadv index convert e5_Flat.index --to as-is --corpus CORPUS --encoder MODEL --out DIR"
)
UNPACKED = 4
"""A corpus takes about so many times the room of its .gz file, with its index of ids."""
_TAR_BLOCK = 512

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A corpus on the hub and the indexes made from it."""

    corpus_repo: str
    index_repos: dict[str, str]
    """Data set per kind; its files named part_* are the pieces of one FAISS file."""
    index_files: dict[str, str]
    """What the joined file is called."""
    encoder: str


PUBLISHED = {
    "wiki-18": Published(
        corpus_repo="PeterJinGo/wiki-18-corpus",
        index_repos={"flat": "PeterJinGo/wiki-18-e5-index", "hnsw64": "PeterJinGo/wiki-18-e5-index-HNSW64"},
        index_files={"flat": "e5_Flat.index", "hnsw64": "e5_HNSW64.index"},
        encoder="intfloat/e5-base-v2",
    )
}


@config_class()
class PullConfig:
    """What is fetched and from where."""

    kind: str = "flat"
    """Which of the published indexes: flat (exact) or hnsw64 (approximate, fast)."""
    encoder: str | None = None
    """Model that encodes the queries. Not set: the published one."""
    endpoint: str | None = None
    """Another hub. Not set: HF_ENDPOINT, or huggingface.co."""
    published: Published | None = field(default=None, repr=False)
    """Other data sets of the same layout."""


def pull(
    name: str,
    *,
    out: Path,
    config: PullConfig | None = None,
    progress: Progress | None = None,
    retry: Retry = DOWNLOAD_RETRY,
) -> IndexManifest:
    """Fetch corpus and index into ``out`` and make an index folder around the published file."""
    config = config or PullConfig()
    published = config.published or PUBLISHED.get(name)
    if published is None:
        raise ConfigError(f"{name}: nothing is published under that name; known: {', '.join(PUBLISHED)}")
    if config.kind not in published.index_repos:
        raise ConfigError(f"--kind {config.kind}: {name} has the indexes {', '.join(published.index_repos)}")
    index_dir = out / config.kind
    if (index_dir / MANIFEST).exists():
        raise ConfigError(f"{index_dir} holds an index already; remove it or name another folder (--out)")
    revisions = _Revisions(out)
    corpus_files = revisions.list(published.corpus_repo, config.endpoint)
    index_files = revisions.list(published.index_repos[config.kind], config.endpoint)
    corpus_file, parts = _corpus_file(corpus_files), _index_parts(index_files)
    index_path, packed = index_dir / published.index_files[config.kind], out / "downloads" / corpus_file.name
    _check_disk(out, corpus=corpus_file, packed=packed, parts=parts, index_path=index_path)
    revisions.write()
    corpus = _fetch_corpus(corpus_file, packed, out=out / "corpus", progress=progress, retry=retry)
    fetch(parts, index_path, progress=_named(progress, f"fetching {index_path.name}"), retry=retry)
    found = open_origin(index_path)
    if found.source.num_vectors != len(corpus):
        raise DataError(
            f"{index_path}: {found.source.num_vectors:,} vectors, but the corpus has {len(corpus):,} documents; "
            "the published files do not belong together"
        )
    spec = encoder_spec(EncoderConfig(model=config.encoder or published.encoder), dimension=found.source.dimension)
    return adopt(found, corpus=corpus, spec=spec, out=index_dir)


class _Revisions:
    """Which revision of each data set is fetched: the newest at the first run, the same one ever after."""

    def __init__(self, out: Path) -> None:
        self._path = out / STATE
        self._pinned: dict[str, str] = {}
        if self._path.exists():
            try:
                self._pinned = dict(read_json(self._path)["revisions"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path}: cannot be read ({error}); remove it to start with new revisions"
                ) from error

    def list(self, repo: str, endpoint: str | None) -> HubFiles:
        files = list_files(
            repo, kind="dataset", revision=self._pinned.get(repo), endpoint=endpoint, remedy=WITHOUT_A_HUB
        )
        self._pinned[repo] = files.revision
        return files

    def write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"revisions": self._pinned})


def _corpus_file(files: HubFiles) -> HubFile:
    found = [file for file in files.files if file.name.endswith((".jsonl.gz", ".jsonl"))]
    if len(found) != 1:
        raise DataError(f"{files.repo}: expected one .jsonl.gz file, found {[file.name for file in found]}")
    return found[0]


def _index_parts(files: HubFiles) -> list[HubFile]:
    """The pieces of the FAISS file in order, or the file itself."""
    parts = sorted((file for file in files.files if file.name.startswith("part_")), key=lambda file: file.name)
    whole = [file for file in files.files if file.name.endswith(".index")]
    if not parts and len(whole) != 1:
        raise DataError(
            f"{files.repo}: no part_* files and no .index file; it holds {[file.name for file in files.files]}"
        )
    return parts or whole


def _check_disk(out: Path, *, corpus: HubFile, packed: Path, parts: list[HubFile], index_path: Path) -> None:
    needed = sum(part.size for part in parts) - bytes_at_hand(index_path)
    if not (out / "corpus").exists():
        needed += corpus.size - bytes_at_hand(packed) + UNPACKED * corpus.size
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ConfigError(
            f"--out {out}: {format_size(needed)} are needed there, {format_size(free)} are free; make room "
            "or name another folder"
        )


def _fetch_corpus(file: HubFile, packed: Path, *, out: Path, progress: Progress | None, retry: Retry) -> Corpus:
    """Download, then import as a stream; a finished corpus folder is used as it is."""
    if not out.exists():
        fetch([file], packed, progress=_named(progress, f"fetching {file.name}"), retry=retry)
        lines = without_tar(packed)
        # Rows of the corpus are rows of the index: a document left out would shift all that follow.
        import_corpus(
            [lines], out=out, config=ImportConfig(strict=True), progress=_named(progress, "importing the corpus")
        )
        shutil.rmtree(packed.parent)
    return Corpus.open(out)


def without_tar(packed: Path) -> Path:
    """The file itself, or, where it is a tar archive that was zipped as a whole, a .jsonl.gz of the lines inside."""
    lines = packed.with_name(f"untarred-{packed.name}")
    if lines.exists() or not packed.name.endswith(".gz"):
        return lines if lines.exists() else packed
    try:
        with gzip.open(packed, "rb") as file:
            is_tar = file.read(_TAR_BLOCK)[257:262] == b"ustar"
        if not is_tar:
            return packed
        with tarfile.open(packed, "r|gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() and member.name.endswith(".jsonl") else None
                if content is None:
                    continue
                with new_file(lines) as partial, gzip.open(partial, "wb", compresslevel=1) as file:
                    shutil.copyfileobj(cast("IO[Any]", content), cast("IO[Any]", file), 1 << 20)
                return lines
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{packed}: cannot be unpacked ({error}); remove it and run the command again") from error
    raise DataError(f"{packed}: an archive without a .jsonl file")


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
