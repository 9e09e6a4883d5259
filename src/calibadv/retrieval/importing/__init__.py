"""Making a corpus out of files: ``options``, then ``json_lines`` and the other readers, ``fields`` to documents."""

from calibadv.retrieval.importing.options import ImportOptions
from calibadv.retrieval.importing.strict import read_documents

__all__ = ["ImportOptions", "read_documents"]
