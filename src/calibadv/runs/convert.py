"""`convert`: an index of another kind, or the FAISS file of one, without encoding again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.config_class import config_class
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.convert import Keep, Target, convert_file, convert_index, open_origin
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.sizing import parse_size, plan_kind


@config_class()
class ConvertConfig:
    """Which index is made, and where."""

    to: Target | None = None
    """The kind to make."""
    memory: str | None = None
    """Choose the best kind that fits, such as 8GiB."""
    out: Path | None = None
    """New folder or file. Not set: INDEX-KIND, or NAME.KIND.index."""
    corpus: Path | None = None
    """The corpus that was encoded, for a FAISS file."""
    encoder: str | None = None
    """The encoder of a FAISS file: a folder or a hub id."""
    vectors: Keep = "reference"
    """For re-scoring: use them where they are, copy them into the folder, or do without."""

    def __post_init__(self) -> None:
        if (self.to is None) == (self.memory is None):
            raise ConfigError("name the kind of index with --to, or the memory that it may take with --memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What was made."""

    path: Path
    kind: str
    count: int
    """Vectors."""
    num_bytes: int
    why: str = ""
    """Why this kind, when the memory decided."""


def convert(source: Path, *, config: ConvertConfig) -> Converted:
    """Make an index of another kind.

    Args:
        source: A FAISS file, or the folder of a dense index.
        config: Which index is made. With ``corpus`` and ``encoder`` a FAISS file becomes a folder to search.

    Raises:
        ConfigError: A setting is impossible, or nothing says where to write.
    """
    require_packages("faiss", extra="dense", what="converting an index")
    kind: Any = config.to
    why = ""
    if config.memory is not None:
        origin = open_origin(source).source
        plan = plan_kind(origin.num_vectors, dimension=origin.dimension, memory_bytes=parse_size(config.memory))
        kind, why = plan.kind, plan.why
    if source.is_dir() or config.corpus is not None or config.encoder is not None or kind == "as-is":
        folder = config.out or (Path(f"{source}-{kind}") if source.is_dir() else None)
        if folder is None:
            raise ConfigError("--out is missing: name a new folder for the index")
        manifest = convert_index(
            source,
            to=kind,
            out=folder,
            corpus=None if config.corpus is None else Corpus.open(config.corpus),
            encoder=None if config.encoder is None else EncoderConfig(model=config.encoder),
            keep=config.vectors,
        )
        num_bytes = manifest.parameters["index"]["bytes"]
        return Converted(path=folder, kind=kind, count=manifest.num_documents, num_bytes=num_bytes, why=why)
    file = config.out or source.with_name(f"{source.name.removesuffix('.index')}.{kind}.index")
    made = convert_file(source, to=kind, out=file)
    return Converted(path=file, kind=kind, count=made.num_vectors, num_bytes=file.stat().st_size, why=why)
