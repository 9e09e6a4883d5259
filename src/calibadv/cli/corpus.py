"""``calibadv corpus``: make a corpus folder out of files, describe it, check it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibadv.cli.options import new_command, positive, require_packages
from calibadv.cli.terminal import progress_bar
from calibadv.cli.trajectories import clean

EPILOG = """\
examples
  calibadv corpus import wiki-18.jsonl.gz --out corpora/wiki         the wiki-18 form, or id, title and text
  calibadv corpus import notes/ --chunk-words 100 --out corpora/notes     every .txt and .md below a folder
  calibadv corpus import part-*.parquet --text-field body --id-field key --out corpora/mine
  calibadv corpus import BeIR/scifact --out corpora/scifact          a data set of the Hugging Face hub
  calibadv corpus info corpora/wiki
  calibadv corpus verify corpora/wiki
"""
IMPORT_EPILOG = """\
sources (any number, read in this order)
  FILE             .jsonl, .jsonl.gz, .parquet, .txt or .md
  FOLDER           its .jsonl or .parquet files; without those its .txt and .md files at any depth, one document each
  OWNER/NAME       a data set of the Hugging Face hub; hf://datasets/OWNER/NAME@REVISION/FOLDER names a part of it

A row is {"id", "contents": "\\"Title\\"\\ntext"} as in wiki-18, or {"id", "title", "text"}; other names with the
--...-field options. Broken lines, duplicate ids, empty documents and what is not UTF-8 are left out, counted and named;
--strict refuses the first one instead. The account is kept in OUT/corpus.json.

next
  calibadv index build OUT --method bm25
"""
FLAWS = {
    "broken": "broken",
    "not_utf8": "not UTF-8",
    "duplicate": "duplicate id",
    "empty": "empty document",
}


def add_parser(commands: Any) -> None:
    """Add the subcommand and its own subcommands."""
    parser = new_command(
        commands,
        "corpus",
        help="import, describe and check a corpus of documents",
        description="Make a corpus folder: documents that are opened at once and searched through indexes.",
        epilog=EPILOG,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_import(actions)
    for name, run, help_text in (
        ("info", run_info, "what a corpus is and what its import left out"),
        ("verify", run_verify, "read everything again and compare it with what the folder says"),
    ):
        action = new_command(actions, name, help=help_text, description=help_text.capitalize() + ".", epilog=EPILOG)
        action.add_argument("corpus", type=Path, metavar="DIR", help="folder of a corpus")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(command=run)


def _add_import(actions: Any) -> None:
    parser = new_command(
        actions,
        "import",
        help="read files, folders or a data set into a corpus folder",
        description="Read documents into a corpus folder, as a stream: memory does not grow with the corpus.",
        epilog=EPILOG + "\n" + IMPORT_EPILOG,
    )
    parser.add_argument("sources", nargs="+", metavar="PATH", help="files, folders, OWNER/NAME on the hub")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder for the corpus")
    parser.add_argument("--id-field", metavar="NAME", help="default: id; row numbers if the first row has none")
    parser.add_argument("--title-field", metavar="NAME", help="default: title, if there is one")
    parser.add_argument("--text-field", metavar="NAME", help="default: text")
    parser.add_argument("--contents-field", metavar="NAME", help="title in quotes, line end, text (default: contents)")
    parser.add_argument("--chunk-words", type=positive, metavar="N", help="cut documents into passages of N words")
    parser.add_argument("--chunk-overlap", type=int, default=0, metavar="N", help="words shared by neighbours")
    parser.add_argument("--strict", action="store_true", help="refuse the first row that cannot be used")
    parser.add_argument("--json", action="store_true", help="print the account as JSON")
    parser.set_defaults(command=run_import)


def run_import(arguments: argparse.Namespace) -> None:
    """Import and say what happened."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    from calibadv.retrieval.corpus.importing import ImportOptions, import_corpus

    options = ImportOptions(
        id_field=arguments.id_field,
        title_field=arguments.title_field,
        text_field=arguments.text_field,
        contents_field=arguments.contents_field,
        chunk_words=arguments.chunk_words,
        chunk_overlap=arguments.chunk_overlap,
        strict=arguments.strict,
    )
    start = time.perf_counter()
    with progress_bar("importing", is_bytes=True) as progress:
        report = import_corpus(arguments.sources, out=arguments.out, options=options, progress=progress)
    seconds = time.perf_counter() - start
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), "seconds": round(seconds, 3), **report.to_record()}, indent=1))
        return
    what = "passages" if options.chunk_words else "documents"
    print(f"{report.num_documents:,} {what} of {report.num_rows:,} rows in {arguments.out} ({seconds:.1f} s)")
    _print_account(report.to_record())
    print(f"\n  calibadv index build {arguments.out} --method bm25    make it searchable")


def run_info(arguments: argparse.Namespace) -> None:
    """Describe a corpus."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    from calibadv.retrieval.corpus.corpus import Corpus

    corpus = Corpus.open(arguments.corpus)
    manifest = corpus.manifest
    assert manifest is not None
    num_bytes = sum(manifest.sizes.values())
    if arguments.json:
        record = {
            "num_documents": len(corpus),
            "bytes": num_bytes,
            "ids": manifest.ids,
            "sha256": corpus.sha256,
            "source": list(manifest.source),
            "report": dict(manifest.report),
        }
        print(json.dumps(record, indent=1))
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
    _print_account(manifest.report)


def run_verify(arguments: argparse.Namespace) -> None:
    """Check a corpus."""
    require_packages("pyarrow", extra="retrieval", what="a corpus")
    from calibadv.retrieval.corpus.corpus import Corpus

    corpus = Corpus.open(arguments.corpus)
    with progress_bar("checking") as progress:
        corpus.verify(progress=progress)
    if arguments.json:
        print(json.dumps({"num_documents": len(corpus), "sha256": corpus.sha256, "ok": True}))
        return
    print(f"{arguments.corpus}: {len(corpus):,} documents, all as they were imported (sha256 {corpus.sha256[:12]})")


def _print_account(report: Mapping[str, Any]) -> None:
    """What was left out, and what was decided."""
    for note in report.get("notes", ()):
        print(f"note: {clean(str(note))}")
    for kind, what in FLAWS.items():
        count = report.get("counts", {}).get(kind, 0)
        if not count:
            continue
        named = [row for row in report.get("left_out", ()) if row["kind"] == kind]
        print(f"left out, {what}: {count:,}" + (f", the first {len(named)}:" if count > len(named) else ":"))
        for row in named:
            print(clean(f"  {row['where']}: {row['message']}"))
