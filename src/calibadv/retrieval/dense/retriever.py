"""Search by meaning: encode the queries, find the nearest documents with FAISS, fetch them from the corpus.

Index and vectors are memory-mapped: opening takes milliseconds whatever the size, and several processes share the
pages. What must belong together (encoder, corpus, index, vectors) is checked at opening: dimension, number, size and
digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.retrieval.base import Hit, check_search
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderSpec
from calibadv.retrieval.dense.folder import check_encoder, open_vector_index
from calibadv.retrieval.dense.search import Ranked, VectorIndex, Vectors
from calibadv.retrieval.index.folder import corpus_of
from calibadv.retrieval.index.manifest import IndexManifest
from calibadv.retrieval.index.row_search import RowHits, RowRetriever, with_documents


class DenseRetriever(RowRetriever):
    """Searches a corpus by the vectors of an encoder. Safe to call from several threads.

    A blank query finds nothing. Equal scores are ordered by row.
    """

    def __init__(
        self, corpus: Corpus, *, encoder: Encoder, index: VectorIndex, index_manifest: IndexManifest, where: Path
    ) -> None:
        super().__init__(corpus, index_manifest=index_manifest)
        self.encoder = encoder
        self.index = index
        self._where = where

    @classmethod
    def open(
        cls,
        index_dir: Path | str,
        *,
        corpus: Corpus | None = None,
        encoder: Encoder | str | None = None,
        device: str | None = None,
        search_device: str = "cpu",
    ) -> DenseRetriever:
        """Open an index folder; ``corpus`` and ``encoder`` where they no longer are where the manifest says.

        ``device`` runs the encoder. With ``search_device`` "cuda" (or "cuda:1") the stored vectors are loaded onto the
        GPU and searched exactly, whatever the kind of the index; "auto" does so where there is one with room for them.
        """
        index_dir = Path(index_dir)
        manifest = IndexManifest.read(index_dir)
        if manifest.method != "dense":
            raise DataError(f"{index_dir}: a {manifest.method} index, not a dense one; open it as such")
        index = open_vector_index(index_dir, manifest, search_device=search_device)
        corpus = corpus_of(index_dir, manifest, corpus=corpus)
        if not isinstance(encoder, Encoder):
            encoder = _open_encoder(manifest, where=index_dir, model=encoder, device=device)
        check_encoder(encoder.spec, manifest, where=index_dir)
        return cls(corpus, encoder=encoder, index=index, index_manifest=manifest, where=index_dir)

    @property
    def is_exact(self) -> bool:
        """Whether hits are compared by the vectors as they were encoded."""
        return self.index.parameters.kind == "flat"

    def search_rows(self, queries: Sequence[str], k: int) -> list[RowHits]:
        """As `search`, in rows."""
        return self._rows(queries, k, self.index.best)

    def search_exact(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The same by comparing with every stored vector: what an approximate kind is measured against."""
        if self.index.vectors is None:
            raise DataError(
                f"{self._where}: its vectors were not kept, so there is no exact search to compare with; build the "
                "index with its vectors (without --no-vectors)"
            )
        return with_documents(self._rows(queries, k, self.index.best_exact), self.corpus)

    def _rows(self, queries: Sequence[str], k: int, best: Callable[[Vectors, int], list[Ranked]]) -> list[RowHits]:
        check_search(queries, k)
        results: list[RowHits] = [[] for _ in queries]
        asked = [number for number, query in enumerate(queries) if query.strip()]
        if not asked:
            return results
        vectors_QD = self.encoder.encode_queries([queries[number] for number in asked])
        finite_Q = np.isfinite(vectors_QD).all(axis=1)
        if not finite_Q.all():
            bad = queries[asked[int(np.argmin(finite_Q))]]
            raise RetrieverError(
                f"encoder {self.encoder.spec.model} gave a vector that is not finite for the query {bad[:80]!r}; "
                "use the encoder's dtype float32 or bfloat16, and check the weights"
            )
        try:
            ranked = best(vectors_QD, min(k, len(self.corpus)))
        except (RuntimeError, AssertionError, MemoryError) as error:  # what FAISS raises
            raise RetrieverError(f"{self._where}: the search failed ({error})") from error
        for number, (scores, rows) in zip(asked, ranked, strict=True):
            results[number] = list(zip(map(int, rows), map(float, scores), strict=True))
        return results


def _open_encoder(manifest: IndexManifest, *, where: Path, model: str | None, device: str | None) -> Encoder:
    spec = EncoderSpec.from_parameters(manifest.parameters.get("encoder"), where=str(where))
    try:
        return Encoder(spec.config(model=model, device=device or "auto"))
    except ConfigError as error:
        if model is None and not Path(spec.model).is_dir():
            raise ConfigError(
                f"{where}: its encoder cannot be loaded; name where it is (--encoder, retrieval.encoder). {error}"
            ) from error
        raise
