"""Making a corpus folder out of files: a stream, in bounded memory, with an account of what was left out.

- `chunking`: cutting documents into passages of a fixed number of words
- `fields`: from a row's fields to a document: the wiki-18 form, id/title/text, or fields of other names
- `hash_runs`: id hashes beside their rows, sorted, in bounded memory: what duplicates are found with, and what
  ids.bin is made of
- `hub`: data sets of the Hugging Face hub: files are fetched into the hub's own cache, resumable, and read from there
- `importer`: importing: sources to a corpus folder as a stream, in bounded memory, with an account of what was left
  out
- `jsonl`: rows of .jsonl and .jsonl.gz files, one line in memory at a time
- `one_set`: whether the files of a source are one data set: one folder, one kind of file
- `config`: how sources are turned into documents
- `parquet`: rows of parquet files, a few hundred in memory at a time (and the row group they are read from)
- `report`: what an import read, kept and left out
- `seen_ids`: which document ids an import has seen: exactly, in bounded memory, whatever the ids are
- `sources`: what an import reads: files, folders and data sets of the Hugging Face hub, as a list of files in a fixed
  order
- `text_files`: documents out of .txt and .md files: one file, one document
- `writer`: writing a corpus folder, all or nothing: everything goes to a folder beside it that is renamed at the end
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.retrieval.corpus.importing.config import ImportConfig
    from calibadv.retrieval.corpus.importing.importer import import_corpus
    from calibadv.retrieval.corpus.importing.report import ImportReport

__all__ = ["ImportConfig", "ImportReport", "import_corpus"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.retrieval.corpus.importing.config": ("ImportConfig",),
        "calibadv.retrieval.corpus.importing.importer": ("import_corpus",),
        "calibadv.retrieval.corpus.importing.report": ("ImportReport",),
    },
)
