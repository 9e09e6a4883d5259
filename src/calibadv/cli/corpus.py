"""``calibadv corpus``: make a corpus folder out of files, describe it, check it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import Json, command, epilogue, fill, print_json, takes
from calibadv.io.packages import require_packages
from calibadv.io.terminal import clean
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing.config import ImportConfig
from calibadv.retrieval.corpus.importing.report import account
from calibadv.runs.progress import progress_bar

EXAMPLES = """\
  calibadv corpus import wiki-18.jsonl.gz --out corpora/wiki     the wiki-18 form, or id, title and text
  calibadv corpus import notes/ --chunk-words 100 --out corpora/notes    every .txt and .md below a folder
  calibadv corpus import part-1.parquet part-2.parquet --text-field body --id-field key --out corpora/mine
  calibadv corpus import BeIR/scifact --out corpora/scifact      a data set of the Hugging Face hub
  calibadv corpus info corpora/wiki
  calibadv corpus verify corpora/wiki
"""
IMPORT_EXAMPLES = f"""{EXAMPLES}
sources (any number, read in this order)
  FILE             .jsonl, .jsonl.gz, .parquet, .txt or .md
  FOLDER           its .jsonl or .parquet files; without those its .txt and .md
                   files at any depth, one document each
  OWNER/NAME       a data set of the Hugging Face hub;
                   hf://datasets/OWNER/NAME@REVISION/FOLDER names a part of it

A row is {{"id", "contents": "\\"Title\\"\\ntext"}} as in wiki-18, or {{"id", "title",
"text"}}; other names with the --...-field options. Broken lines, duplicate ids,
empty documents and what is not UTF-8 are left out, counted and named; --strict
refuses the first one instead. The account is kept in OUT/corpus.json.

next
  calibadv index build corpora/wiki --method bm25
"""
Folder = Annotated[Path, Parameter(name="CORPUS", help="Folder of a corpus.")]

app = command("corpus", examples=EXAMPLES)


@app.command(name="import", help_epilogue=epilogue(IMPORT_EXAMPLES))
@takes(ImportConfig)
def import_(
    sources: Annotated[
        tuple[str, ...],
        Parameter(name="SOURCE", help="Files, folders, OWNER/NAME on the hub.", show_default=False),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(metavar="DIR", help="New folder for the corpus.")],
    json: Json = False,
    **options: Any,
) -> None:
    """Read documents into a corpus folder, as a stream: memory does not grow with the corpus."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    from calibadv.retrieval.corpus.importing import import_corpus

    config = fill(ImportConfig, options)
    start = time.perf_counter()
    with progress_bar("importing", is_bytes=True) as progress:
        report = import_corpus(sources, out=out, config=config, progress=progress)
    seconds = time.perf_counter() - start
    if json:
        print_json({"out": str(out), "seconds": round(seconds, 3), **report.to_record()})
        return
    what = "passages" if config.chunk_words else "documents"
    print(f"{report.num_documents:,} {what} of {report.num_rows:,} rows in {out} ({seconds:.1f} s)")
    print(account(report.to_record()), end="")
    print(f"\n  calibadv index build {out} --method bm25    make it searchable")


@app.command
def info(folder: Folder, /, *, json: Json = False) -> None:
    """Say what a corpus is and what its import left out."""
    corpus = open_corpus(folder)
    manifest = corpus.manifest
    assert manifest is not None
    num_bytes = sum(manifest.sizes.values())
    if json:
        print_json(
            {
                "num_documents": len(corpus),
                "bytes": num_bytes,
                "ids": manifest.ids,
                "sha256": corpus.sha256,
                "source": list(manifest.source),
                "report": dict(manifest.report),
            }
        )
        return
    first = corpus[0]
    rows = {
        "documents": f"{len(corpus):,}",
        "size": f"{num_bytes / 1e6:,.1f} MB",
        "ids": "row numbers" if manifest.ids == "rows" else "by hash",
        "source": ", ".join(manifest.source),
        "sha256": corpus.sha256,
        "first document": f"{first.id!r}: {first.title or first.text[:60]}",
    }
    for name, value in rows.items():
        print(f"{name:<16}{clean(value)}")
    print(account(manifest.report), end="")


@app.command
def verify(folder: Folder, /, *, json: Json = False) -> None:
    """Read everything again and compare it with what the folder says."""
    corpus = open_corpus(folder)
    with progress_bar("checking") as progress:
        corpus.verify(progress=progress)
    if json:
        print_json({"num_documents": len(corpus), "sha256": corpus.sha256, "ok": True})
        return
    print(f"{folder}: {len(corpus):,} documents, all as they were imported (sha256 {corpus.sha256[:12]})")


def open_corpus(folder: Path) -> Corpus:
    """The corpus in a folder."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    return Corpus.open(folder)
