"""Encode a corpus into an index folder; a build that was killed continues where it was.

The vectors grow chunk by chunk in ``vectors.faiss``. After each chunk the file is flushed to disk and ``progress.json``
says how many rows are valid; a resumed build cuts off what came later. Chunks and batches are the same whether a build
was interrupted or not, so the vectors are the same, bit for bit. The manifest is written last: a folder with a manifest
is complete.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import read_json, try_lock, write_json
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.folder import VECTORS, make_index
from calibadv.retrieval.dense.kinds import Kind, check_kind
from calibadv.retrieval.dense.vector_file import VectorType, VectorWriter
from calibadv.retrieval.index.manifest import MANIFEST, PROGRESS, IndexManifest

logger = logging.getLogger(__name__)

LOCK = ".building"
CHUNK_BATCHES = 16
"""Batches between two notes of progress: texts are sorted by length within as many."""

Progress = Callable[[int, int], None]
"""Called with documents done and documents in all."""


def build_dense(
    corpus: Corpus,
    *,
    index_dir: Path,
    encoder_config: EncoderConfig,
    kind: Kind = "flat",
    vectors: VectorType | None = None,
    keep_vectors: bool = True,
    progress: Progress | None = None,
) -> IndexManifest:
    """Encode ``corpus`` and make an index of ``kind`` in ``index_dir``, or continue what was begun there.

    ``vectors`` is the type that encoded documents are stored in: float32 for "flat", else float16, which halves the
    disk and changes no ranking that matters. Without ``keep_vectors`` they are removed when the index is made: no exact
    re-scoring, no exact search to compare with, and another kind means encoding again.
    """
    check_kind(kind, num_vectors=len(corpus))
    stored = _stored_type(vectors, kind=kind)
    if (index_dir / MANIFEST).exists():
        raise ConfigError(f"{index_dir} holds a finished index; remove it or name another folder (--out)")
    encoder = Encoder(encoder_config)
    index_dir.mkdir(parents=True, exist_ok=True)
    with _only_builder(index_dir):
        _encode(corpus, encoder, index_dir=index_dir, stored=stored, progress=progress)
        manifest = make_index(
            corpus,
            index_dir=index_dir,
            kind=kind,
            spec=encoder.spec,
            source=index_dir / VECTORS,
            keep_vectors=keep_vectors,
        )
        (index_dir / PROGRESS).unlink(missing_ok=True)
    return manifest


def _stored_type(vectors: VectorType | None, *, kind: Kind) -> VectorType:
    wanted: VectorType = "float32" if kind == "flat" else "float16"
    if vectors is None:
        return wanted
    if kind in ("flat", "fp16") and vectors != wanted:
        raise ConfigError(f"an index of kind {kind} stores its vectors as {wanted}, not {vectors}; leave vectors out")
    return vectors


def _encode(
    corpus: Corpus, encoder: Encoder, *, index_dir: Path, stored: VectorType, progress: Progress | None
) -> None:
    """Fill ``vectors.faiss``, from where an earlier build was."""
    spec = encoder.spec
    identity: dict[str, Any] = {
        "corpus_sha256": corpus.sha256,
        "num_documents": len(corpus),
        "vectors": stored,
        "chunk": CHUNK_BATCHES * encoder.config.batch_size,
        "encoder": {name: value for name, value in spec.as_parameters().items() if not name.endswith("model")},
    }
    done = _resume_point(index_dir, identity)
    if done:
        logger.info("Continuing the build in %s: %d of %d documents are encoded", index_dir, done, len(corpus))
    else:
        write_json(index_dir / PROGRESS, identity | {"done": 0}, sync=True)
    writer = VectorWriter(index_dir / VECTORS, dtype=stored, dimension=spec.dimension, start=done)

    def tell(unwritten: int) -> None:
        if progress is not None:
            progress(writer.num_vectors + unwritten, len(corpus))

    try:
        tell(0)
        for documents in corpus.iter_batches(identity["chunk"], start=done):
            writer.write(encoder.encode_documents(documents, progress=tell))
            writer.flush()
            write_json(index_dir / PROGRESS, identity | {"done": writer.num_vectors}, sync=True)
            tell(0)
        writer.finish()
    finally:
        writer.close()


def _resume_point(index_dir: Path, identity: dict[str, Any]) -> int:
    """Rows that an earlier build of the same index finished; another index in the folder is an error."""
    path = index_dir / PROGRESS
    if not path.exists():
        foreign = sorted(p.name for p in index_dir.iterdir() if p.name not in (LOCK, f".{PROGRESS}.partial"))
        if foreign:
            raise ConfigError(f"{index_dir} is not empty ({foreign[0]}); name a new folder (--out)")
        return 0
    try:
        note = read_json(path)
        done = int(note.pop("done"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a note of progress ({error}); remove {index_dir} and start again") from error
    for key, value in identity.items():
        if note.get(key) != value:
            raise ConfigError(
                f"{index_dir} holds the beginning of another index: its {_difference(key, note.get(key), value)}; "
                "continue with the same corpus, encoder and settings, name another folder (--out), or remove this one"
            )
    return done


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in new if old.get(name) != new[name]]
        return ", ".join(f"{key}.{name} is {old.get(name)!r}, not {new[name]!r}" for name in names)
    if key == "chunk" and isinstance(old, int):
        return f"batch size is {old // CHUNK_BATCHES}, not {new // CHUNK_BATCHES}"
    return f"{key} is {old!r}, not {new!r}"


@contextlib.contextmanager
def _only_builder(index_dir: Path) -> Iterator[None]:
    """Two builds in one folder would write over each other; the lock ends with its process, however that ends."""
    with (index_dir / LOCK).open("w") as file:
        if not try_lock(file.fileno()):
            raise ConfigError(f"{index_dir}: another build is writing there; wait for it or name another folder")
        yield
    (index_dir / LOCK).unlink(missing_ok=True)
