"""Opening an index folder as what its manifest says it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.corpus import Corpus
from calibadv.retrieval.corpus_manifest import CORPUS
from calibadv.retrieval.hybrid import HybridRetriever
from calibadv.retrieval.index_folder import corpus_of
from calibadv.retrieval.manifest import MANIFEST, IndexManifest

if TYPE_CHECKING:
    from calibadv.retrieval.dense.retriever import DenseRetriever


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
    if not index_dir.exists():
        raise DataError(f"{index_dir}: no such folder; make an index: calibadv index build CORPUS --method bm25")
    if (index_dir / CORPUS).exists() and not (index_dir / MANIFEST).exists():
        found = sorted(path.parent.name for path in index_dir.glob(f"*/{MANIFEST}"))
        remedy = f"name one of its indexes ({', '.join(found)})" if found else "make one: calibadv index build"
        raise DataError(f"{index_dir} is a corpus, not an index; {remedy}")
    manifest = IndexManifest.read(index_dir)
    if isinstance(corpus, Path | str):
        corpus = Corpus.read(corpus)
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
