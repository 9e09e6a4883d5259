"""Search by meaning: encode the queries, find the nearest documents with FAISS, fetch them from the corpus.

Index and vectors are memory-mapped: opening takes milliseconds whatever the size, and several processes share the
pages. What must belong together (encoder, corpus, index, vectors) is checked at opening: dimension, number, size and
digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.retrieval.base import Hit
from calibadv.retrieval.corpus import Corpus
from calibadv.retrieval.dense.conventions import EncoderSpec
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.folder import check_encoder, index_parameters, open_index_file, open_vectors
from calibadv.retrieval.dense.kinds import IndexParameters
from calibadv.retrieval.dense.vectors import import_faiss
from calibadv.retrieval.index_folder import corpus_of
from calibadv.retrieval.manifest import IndexManifest

# Shape suffixes: Q = queries, C = candidates, D = dimension.

_TIE_MARGIN = 8
"""Hits beyond the last one wanted that are looked at, so that equal scores at the end can be put in row order."""


class DenseRetriever:
    """Searches a corpus by the vectors of an encoder. Safe to call from several threads.

    A blank query finds nothing. Equal scores are ordered by row.
    """

    def __init__(
        self, corpus: Corpus, *, encoder: Encoder, index: Any, index_manifest: IndexManifest, where: Path
    ) -> None:
        self.corpus = corpus
        self.encoder = encoder
        self.index_manifest = index_manifest
        self.parameters: IndexParameters = index_parameters(index_manifest, where=where)
        self._index = index
        self._where = where
        vectors = index_manifest.parameters.get("vectors")
        self._vectors = None if vectors is None else open_vectors(where / vectors["file"], manifest=index_manifest)

    @classmethod
    def open(
        cls,
        index_dir: Path | str,
        *,
        corpus: Corpus | None = None,
        encoder: Encoder | str | None = None,
        device: str | None = None,
    ) -> DenseRetriever:
        """Open an index folder; ``corpus`` and ``encoder`` where they no longer are where the manifest says."""
        index_dir = Path(index_dir)
        manifest = IndexManifest.read(index_dir)
        if manifest.method != "dense":
            raise DataError(f"{index_dir}: a {manifest.method} index, not a dense one; open it as such")
        index = open_index_file(index_dir, manifest)
        corpus = corpus_of(index_dir, manifest, corpus=corpus)
        if not isinstance(encoder, Encoder):
            encoder = _open_encoder(manifest, where=index_dir, model=encoder, device=device)
        check_encoder(encoder.spec, manifest, where=index_dir)
        return cls(corpus, encoder=encoder, index=index, index_manifest=manifest, where=index_dir)

    @property
    def version(self) -> str:
        """Digest of everything that decides the hits."""
        return self.index_manifest.version

    def manifest(self) -> dict[str, Any]:
        """What identifies this index, for the manifests of evaluations."""
        return asdict(self.index_manifest)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most ``k`` hits a query, best first."""
        return self._search(queries, k, self._best_rows)

    def search_exact(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The same by comparing with every stored vector: what an approximate kind is measured against."""
        if self._vectors is None:
            raise DataError(
                f"{self._where}: its vectors were not kept, so there is no exact search to compare with; build the "
                "index with its vectors (without --no-vectors)"
            )
        faiss = import_faiss()
        exact = faiss.read_index(str(self._vectors.path), faiss.IO_FLAG_MMAP_IFC)

        def best(vectors_QD: NDArray[np.float32], k: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
            scores_QC, rows_QC = self._nearest(exact, vectors_QD, min(k + _TIE_MARGIN, exact.ntotal))
            return [_ranked(scores, rows, k) for scores, rows in zip(scores_QC, rows_QC, strict=True)]

        return self._search(queries, k, best)

    def _search(self, queries: Sequence[str], k: int, best: Any) -> list[list[Hit]]:
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        results: list[list[Hit]] = [[] for _ in queries]
        asked = [number for number, query in enumerate(queries) if query.strip()]
        if not asked:
            return results
        vectors_QD = self.encoder.encode_queries([queries[number] for number in asked])
        finite_Q = np.isfinite(vectors_QD).all(axis=1)
        if not finite_Q.all():
            bad = queries[asked[int(np.argmin(finite_Q))]]
            raise RetrieverError(
                f"encoder {self.encoder.spec.model} gave a vector that is not finite for the query {bad[:80]!r}; "
                'use encoder.dtype "fp32" or "bf16", and check the weights'
            )
        ranked = best(vectors_QD, min(k, len(self.corpus)))
        documents = iter(self.corpus.take([int(row) for _, rows in ranked for row in rows]))
        for number, (scores, _) in zip(asked, ranked, strict=True):
            results[number] = [Hit(next(documents), float(score)) for score in scores]
        return results

    def _best_rows(self, vectors_QD: NDArray[np.float32], k: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Scores and rows of each query's best ``k``."""
        rescore = self.parameters.rescore if self._vectors is not None else 0
        wanted = min(max(k * rescore, k + _TIE_MARGIN), len(self.corpus))
        scores_QC, rows_QC = self._nearest(self._index, vectors_QD, wanted)
        if not rescore or self._vectors is None:
            return [_ranked(scores, rows, k) for scores, rows in zip(scores_QC, rows_QC, strict=True)]
        stored = self._vectors.map()
        ranked = []
        for vector, rows in zip(vectors_QD, rows_QC, strict=True):
            found = np.sort(rows[rows >= 0])  # in the order of the file
            exact = np.asarray(stored[found], dtype=np.float32) @ vector
            ranked.append(_ranked(exact, found, k))
        return ranked

    def _nearest(self, index: Any, vectors_QD: NDArray[np.float32], count: int) -> tuple[Any, Any]:
        try:
            return index.search(vectors_QD, count, params=search_parameters(self.parameters, index, count))  # type: ignore[no-any-return]
        except (RuntimeError, AssertionError, MemoryError) as error:  # what FAISS raises
            raise RetrieverError(f"{self._where}: the search failed ({error})") from error


def _ranked(scores: NDArray[Any], rows: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The best ``k``, equal scores by row; FAISS fills up with row -1 where it found fewer."""
    found = rows >= 0
    scores, rows = scores[found], rows[found]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def search_parameters(parameters: IndexParameters, index: Any, count: int) -> Any:
    """How far to look, for the kinds where that is a choice."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(parameters.ef_search or 128, count))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=parameters.nprobe)
    return None


def _open_encoder(manifest: IndexManifest, *, where: Path, model: str | None, device: str | None) -> Encoder:
    spec = EncoderSpec.from_parameters(manifest.parameters.get("encoder"), where=str(where))
    try:
        return Encoder(spec.config(model=model, device=device or "auto"))
    except ConfigError as error:
        if model is None and not Path(spec.model).is_dir():
            raise ConfigError(
                f"{where}: its encoder cannot be loaded; name its folder (--encoder DIR). {error}"
            ) from error
        raise
