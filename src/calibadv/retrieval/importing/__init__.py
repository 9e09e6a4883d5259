"""Making a corpus folder out of files: a stream, in bounded memory, with an account of what was left out.

Map: ``run`` is the import; ``sources`` finds the files (``hub`` fetches those of the Hugging Face hub); ``json_lines``,
``parquet`` and ``text_files`` read rows, ``fields`` makes documents of them, ``chunking`` cuts them into passages;
``seen_ids`` and ``hash_runs`` find duplicates; ``writer`` writes the folder, ``report`` says what happened; ``strict``
reads a file into memory instead.
"""

from calibadv.retrieval.importing.options import ImportOptions
from calibadv.retrieval.importing.report import ImportReport
from calibadv.retrieval.importing.run import import_corpus
from calibadv.retrieval.importing.strict import read_documents

__all__ = ["ImportOptions", "ImportReport", "import_corpus", "read_documents"]
