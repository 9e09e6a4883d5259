"""Writing a corpus folder, all or nothing: everything goes to a folder beside it that is renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from calibadv.errors import ConfigError, DataError
from calibadv.io.files import finish_folder, start_folder, sync_file
from calibadv.retrieval.corpus.corpus import CorpusDigest
from calibadv.retrieval.corpus.id_index import IDS
from calibadv.retrieval.corpus.importing.hash_runs import HashRuns
from calibadv.retrieval.corpus.importing.report import ImportReport
from calibadv.retrieval.corpus.manifest import DOCUMENTS, CorpusManifest
from calibadv.retrieval.corpus.table import ROWS_PER_BATCH, TableWriter, import_pyarrow
from calibadv.trajectory import Document

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CorpusWriter:
    """Documents in, a folder out. Leaving the ``with`` block without `finish` leaves nothing behind."""

    def __init__(self, out: Path) -> None:
        self._out = out.resolve()
        self.partial = self._out
        """Where the folder is made, inside of the ``with`` block."""
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} exists and is not empty; name a new folder for the corpus (--out) or remove it")
        self._digest = CorpusDigest()

    def __enter__(self) -> Self:
        pa = import_pyarrow()
        self.partial = start_folder(self._out)
        self._sink = pa.OSFile(str(self.partial / DOCUMENTS), "wb")
        self._table = TableWriter(self._sink)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sink.close()
        shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise DataError(
                f"{self._out}: the corpus does not fit there ({os.strerror(error.errno)}); make room, or name another "
                "disk (--out)"
            ) from error

    @property
    def num_documents(self) -> int:
        """Documents written so far."""
        return self._table.num_documents

    @property
    def sha256(self) -> str:
        """Digest of the documents so far."""
        return self._digest.hexdigest()

    def add(self, document: Document) -> None:
        """Write one more document."""
        self._table.add(document)
        self._digest.add(document)

    def stored_id(self, row: int) -> str:
        """The id written in a row."""
        return self._table.stored_id(row, path=self.partial / DOCUMENTS)

    def finish(self, ids: HashRuns | None, *, source: tuple[str, ...], report: ImportReport) -> None:
        """Write what is left and give the folder its name."""
        self._table.close()
        self._sink.close()
        names = [DOCUMENTS]
        if ids is not None:
            ids.write(self.partial / IDS)
            names.append(IDS)
        for name in names:
            sync_file(self.partial / name)
        manifest = CorpusManifest(
            num_documents=self.num_documents,
            sha256=self.sha256,
            ids="rows" if ids is None else "hashed",
            rows_per_batch=ROWS_PER_BATCH,
            sizes={name: (self.partial / name).stat().st_size for name in names},
            source=source,
            report=report.to_record(),
        )
        manifest.write(self.partial)
        finish_folder(self.partial, self._out)
