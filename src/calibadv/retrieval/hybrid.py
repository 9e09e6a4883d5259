"""Two indexes of one corpus, searched side by side and fused by rank.

Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): a document scores the sum of 1 / (k + rank) over the
lists that hold it, with k = 60 as there. Only ranks count, so scores of different kinds need no scaling.

A hybrid folder holds a manifest, with the versions of its parts, and ``parts.json``, with their places; it is of no use
without them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from calibadv.config_class import PositiveInt, config_class
from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.io.thread_pool import Threads
from calibadv.retrieval.base import IndexedRetriever, check_search
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.index.folder import whole_folder
from calibadv.retrieval.index.manifest import IndexManifest
from calibadv.retrieval.index.row_search import RowHits, RowRetriever
from calibadv.version import __version__

PARTS = "parts.json"


class Part(IndexedRetriever, Protocol):
    """An index of the corpus."""

    corpus: Corpus


@config_class()
class HybridConfig:
    """How the lists are fused."""

    rrf_k: PositiveInt = 60
    """Reciprocal rank constant: how little the first ranks stand out."""
    depth: PositiveInt = 100
    """Candidates asked of each part; at least as many as the search wants."""


class HybridRetriever(RowRetriever):
    """Asks its parts in parallel and fuses what they find; equal scores come in corpus order.

    A part that fails fails the search: half of a hybrid is another retriever.
    """

    def __init__(self, parts: Mapping[str, Part], *, config: HybridConfig | None = None) -> None:
        if len(parts) < 2:
            raise ConfigError(f"a hybrid needs two parts or more, got {len(parts)}")
        self.parts = dict(parts)
        self.config = config or HybridConfig()
        super().__init__(
            next(iter(self.parts.values())).corpus, index_manifest=_manifest_of(self.parts, config=self.config)
        )
        for name, part in self.parts.items():
            if part.corpus.sha256 != self.corpus.sha256:
                raise DataError(f"the parts of a hybrid must index one corpus; the corpus of {name!r} is another one")
        self._pool = Threads(len(self.parts), name="calibadv-hybrid")

    @classmethod
    def open(cls, index_dir: Path | str, *, open_part: Callable[[Path], Part]) -> HybridRetriever:
        """Open a hybrid folder; ``open_part`` opens the index in the folder of a part."""
        index_dir = Path(index_dir)
        manifest, folders = read_manifest(index_dir), part_folders(index_dir)
        parts = {}
        for name, version in manifest.parameters["parts"].items():
            if name not in folders:
                raise DataError(f"{index_dir / PARTS}: does not say where the part {name!r} is; build the hybrid again")
            parts[name] = open_part(folders[name])
            if parts[name].version != version:
                raise DataError(
                    f"{index_dir}: its part {name!r} is not the one it was made of; remove {index_dir} and make the "
                    "hybrid again: calibadv index build CORPUS --method hybrid"
                )
        return cls(parts, config=HybridConfig(**{name: manifest.parameters[name] for name in ("rrf_k", "depth")}))

    def manifest(self) -> dict[str, Any]:
        """What identifies this index and its parts: recorded with evaluations."""
        return super().manifest() | {"parts": {name: part.manifest() for name, part in self.parts.items()}}

    def search_rows(self, queries: Sequence[str], k: int) -> list[RowHits]:
        """As `search`, in rows, with the fused scores."""
        check_search(queries, k)
        depth = max(k, self.config.depth)
        found = self._pool.map(lambda part: rows_of(part, queries, depth), self.parts.values())
        return [fuse(lists, k=k, rrf_k=self.config.rrf_k) for lists in zip(*found, strict=True)]


def rows_of(part: Part, queries: Sequence[str], k: int) -> list[RowHits]:
    """What a part finds, as rows of the corpus."""
    if isinstance(part, RowRetriever):
        return part.search_rows(queries, k)
    found = part.search(queries, k)
    rows = {hit.document.id: part.corpus.row_of(hit.document.id) for hits in found for hit in hits}
    unknown = [document_id for document_id, row in rows.items() if row is None]
    if unknown:
        raise RetrieverError(f"a part of a hybrid found the document {unknown[0]!r}, which is not in its corpus")
    return [[(rows[hit.document.id] or 0, hit.score) for hit in hits] for hits in found]


def fuse(lists: Sequence[RowHits], *, k: int, rrf_k: int = 60) -> RowHits:
    """The best ``k`` rows of ranked lists by reciprocal rank.

    >>> [row for row, _ in fuse([[(7, 9.0), (3, 8.0)], [(3, 0.9), (5, 0.8)]], k=2)]
    [3, 7]
    """
    scores: dict[int, float] = {}
    for hits in lists:
        for rank, (row, _) in enumerate(hits, start=1):
            scores[row] = scores.get(row, 0.0) + 1.0 / (rrf_k + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]


def write_hybrid(
    folders: Mapping[str, Path], *, parts: Mapping[str, Part], out: Path, place: str, config: HybridConfig
) -> IndexManifest:
    """Make the hybrid folder ``out`` of indexes in ``folders``, which were opened as ``parts``."""
    manifest = _manifest_of(parts, config=config, place=place)
    with whole_folder(out) as partial:
        paths = {name: Path(os.path.relpath(folder, out)).as_posix() for name, folder in folders.items()}
        (partial / PARTS).write_text(json.dumps(paths, indent=1), encoding="utf-8")
        manifest.write(partial)
    return manifest


def part_folders(index_dir: Path) -> dict[str, Path]:
    """The folders of a hybrid's parts, by name."""
    path = index_dir / PARTS
    try:
        paths = json.loads(path.read_text(encoding="utf-8"))
        return {name: Path(os.path.normpath(index_dir / place)) for name, place in paths.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: does not name the parts of a hybrid ({error}); build the hybrid again") from error


def read_manifest(index_dir: Path) -> IndexManifest:
    """The manifest of a hybrid."""
    manifest = IndexManifest.read(index_dir)
    if manifest.method != "hybrid":
        raise DataError(f"{index_dir} is a {manifest.method} index, not a hybrid; open it as what it is")
    if not _are_parameters(manifest.parameters):
        raise DataError(f"{index_dir}: its manifest is not that of a hybrid; build the hybrid again")
    return manifest


def _are_parameters(parameters: Mapping[str, Any]) -> bool:
    numbers = [parameters.get("rrf_k"), parameters.get("depth")]
    return isinstance(parameters.get("parts"), dict) and all(isinstance(number, int) for number in numbers)


def _manifest_of(parts: Mapping[str, Part], *, config: HybridConfig, place: str = "") -> IndexManifest:
    corpus = next(iter(parts.values())).corpus
    return IndexManifest(
        method="hybrid",
        corpus=place,
        corpus_sha256=corpus.sha256,
        num_documents=len(corpus),
        parameters={"parts": {name: part.version for name, part in parts.items()}, **asdict(config)},
        versions={"calibadv": __version__},
    )
