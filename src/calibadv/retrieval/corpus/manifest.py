"""What a corpus folder says about itself: ``corpus.json``, written last, so that a folder that has one is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from calibadv.config_class import PositiveInt
from calibadv.errors import DataError
from calibadv.io.files import read_json, read_record, write_json
from calibadv.retrieval.corpus.id_index import IDS

CORPUS = "corpus.json"
DOCUMENTS = "documents.arrow"
FORMAT = "calibadv.corpus"
VERSION = 1
Ids = Literal["rows", "hashed"]
AGAIN = "import it again: calibadv corpus import"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusManifest:
    """The identity of a corpus, the sizes of its files, and how it was made."""

    num_documents: PositiveInt
    sha256: str
    """`Corpus.sha256`."""
    ids: Ids
    """``rows``: ids are the row numbers and need no index; ``hashed``: ids.bin finds them."""
    rows_per_batch: PositiveInt
    sizes: dict[str, int]
    """Bytes of every file beside this one."""
    source: tuple[str, ...] = ()
    """What was imported, as it was named."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What the import counted and left out."""

    def write(self, corpus_dir: Path) -> None:
        """Write corpus.json by rename."""
        write_json(corpus_dir / CORPUS, {"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def read(cls, corpus_dir: Path) -> CorpusManifest:
        """The manifest of a corpus folder; DataError when the folder is something else or a file of it is cut off."""
        path = corpus_dir / CORPUS
        if not path.is_file():
            raise DataError(f"{corpus_dir}: no {CORPUS}, so this is not a corpus; make one: calibadv corpus import")
        record = read_json(path, remedy=AGAIN)
        if record.pop("format", None) != FORMAT:
            raise DataError(f"{path}: not the description of a corpus; {AGAIN}")
        if (version := record.pop("version", None)) != VERSION:
            raise DataError(
                f"{path}: format version {version!r}, but this calibadv reads version {VERSION}; "
                "update calibadv or import the corpus again"
            )
        problem = f"{path}: not the description of a corpus"
        manifest = read_record(cls, record, problem=problem, remedy=AGAIN)
        if not _is_report(manifest.report):
            raise DataError(f"{problem} (report: not that of an import); {AGAIN}")
        if manifest.sizes.keys() != {DOCUMENTS} | ({IDS} if manifest.ids == "hashed" else set()):
            raise DataError(f"{problem} (it has the files {sorted(manifest.sizes)}); {AGAIN}")
        manifest._check_files(corpus_dir)
        return manifest

    def _check_files(self, corpus_dir: Path) -> None:
        for name, size in self.sizes.items():
            path = corpus_dir / name
            if not path.is_file():
                raise DataError(f"{path}: missing; the folder is not a whole corpus: fetch it again or {AGAIN}")
            if (found := path.stat().st_size) != size:
                raise DataError(
                    f"{path}: {found:,} bytes instead of {size:,}; the file was cut off or changed: "
                    f"fetch it again or {AGAIN}"
                )


def _is_report(report: Mapping[str, Any]) -> bool:
    counts, notes, left_out = report.get("counts", {}), report.get("notes", []), report.get("left_out", [])
    return (
        isinstance(counts, dict)
        and all(isinstance(count, int) for count in counts.values())
        and isinstance(notes, list)
        and isinstance(left_out, list)
        and all(isinstance(row, dict) and {"kind", "where", "message"} <= row.keys() for row in left_out)
    )
