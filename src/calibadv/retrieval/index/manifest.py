"""What an index folder says about itself: ``manifest.json``, checked whenever the index is opened.

An index without its corpus is useless, and one with another corpus is worse: the rows point at other documents. So the
manifest names the corpus by content (`corpus_sha256`) and by place (`corpus`, relative to the index folder).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from calibadv.errors import DataError
from calibadv.io.files import read_json, read_record, write_json
from calibadv.io.provenance import json_sha256

INDEX_FORMAT = 2
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
"""In the place of a manifest while a dense index is being built."""
Method = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexManifest:
    """The identity of an index and where its corpus is."""

    method: Method
    corpus: str
    """Where the corpus was, relative to the index folder; ``--corpus`` names another place."""
    corpus_sha256: str
    """`Corpus.sha256` of the documents that were indexed."""
    num_documents: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the method depends on: BM25's analysis, the encoder with pooling and prefixes, the parts of a hybrid."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Packages that built it; for the record, not part of the identity."""

    @property
    def version(self) -> str:
        """Digest of everything that decides the answers (place and package versions do not); caches are keyed by it."""
        identity = {"format": INDEX_FORMAT, **asdict(self)}
        for name in ("corpus", "versions"):
            del identity[name]
        return json_sha256(identity)

    def write(self, index_dir: Path) -> None:
        """Write manifest.json by rename: a folder with a manifest is a complete index."""
        write_json(index_dir / MANIFEST, {"format": INDEX_FORMAT, **asdict(self)})

    @classmethod
    def read(cls, index_dir: Path) -> IndexManifest:
        """The manifest of an index folder; DataError when the folder is something else."""
        path = index_dir / MANIFEST
        if not path.is_file() and (index_dir / PROGRESS).is_file():
            raise DataError(
                f"{index_dir}: the build of this index is not finished; the calibadv index build that began it "
                "continues where it was when it is given again"
            )
        if not path.is_file():
            raise DataError(f"{index_dir}: no {MANIFEST}, so this is not an index; make one: calibadv index build")
        record = read_json(path, remedy="build the index again")
        if record.pop("format", None) != INDEX_FORMAT:
            raise DataError(f"{path}: not an index of format {INDEX_FORMAT}; build it again")
        return read_record(cls, record, problem=f"{path}: not an index manifest", remedy="build the index again")

    def check_corpus(self, *, sha256: str, num_documents: int, where: str) -> None:
        """Refuse to open the index over documents other than those that were indexed."""
        if num_documents != self.num_documents:
            raise DataError(
                f"{where}: the corpus has {num_documents:,} documents, the index {self.num_documents:,}; "
                "name the corpus it was built from (--corpus) or build the index again"
            )
        if sha256 != self.corpus_sha256:
            raise DataError(
                f"{where}: the corpus is not the one that was indexed (its digest is {sha256[:12]}, not "
                f"{self.corpus_sha256[:12]}); name that one (--corpus) or build the index again"
            )
