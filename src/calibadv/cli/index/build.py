"""``calibadv index build``: make a corpus searchable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import Positive, command, fill, takes
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.retrieval.bm25 import BM25Config
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.kinds import Kind
from calibadv.retrieval.hybrid import HybridConfig
from calibadv.runs.index import Method, build_index
from calibadv.runs.progress import progress_bars

EXAMPLES = """\
  calibadv index build corpora/wiki --method bm25
  calibadv index build corpora/wiki --method dense --encoder intfloat/e5-base-v2 --memory 8GiB
  calibadv index build corpora/wiki --method hybrid --encoder intfloat/e5-base-v2

A dense build that was stopped continues where it was: give the same command
again. BM25 appears when it is complete.

next
  calibadv index recall corpora/wiki/bm25 --questions questions.jsonl
  calibadv retriever serve corpora/wiki/bm25
"""

build = command("build", examples=EXAMPLES)


@build.default
@takes(BM25Config, group="BM25")
@takes(EncoderConfig, skip=("model",), group="Dense")
@takes(HybridConfig, group="Hybrid")
def run(
    corpus: Annotated[Path, Parameter(help="A folder of calibadv corpus import.")],
    /,
    *,
    method: Annotated[Method, Parameter(help="By words, by vectors, or by both.")] = "bm25",
    out: Annotated[Path | None, Parameter(metavar="DIR", help="Folder of the index (default: CORPUS/METHOD).")] = None,
    threads: Annotated[Positive, Parameter(group="BM25", help="Indexing threads (default: up to one a CPU).")] = None,
    encoder: Annotated[
        str | None, Parameter(group="Dense", metavar="MODEL", help="Makes the vectors: a folder or a hub id.")
    ] = None,
    kind: Annotated[Kind | None, Parameter(group="Dense", help="What is stored of a vector (default: flat).")] = None,
    memory: Annotated[
        str | None, Parameter(group="Dense", metavar="SIZE", help="Choose the best kind that fits, such as 8GiB.")
    ] = None,
    vectors: Annotated[
        bool, Parameter(group="Dense", negative="--no-vectors", help="Keep the vectors when the index is made.")
    ] = True,
    bm25: Annotated[
        Path | None,
        Parameter(group="Hybrid", metavar="DIR", help="Its BM25 index (default: CORPUS/bm25, built if absent)."),
    ] = None,
    dense: Annotated[
        Path | None,
        Parameter(group="Hybrid", metavar="DIR", help="Its dense index (default: CORPUS/dense, built if absent)."),
    ] = None,
    **options: Any,
) -> None:
    """Build an index of a corpus folder."""
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    if kind is not None and memory is not None:
        raise ConfigError("--kind and --memory both choose the kind of index; give one of them")
    out = out or corpus / method
    start = time.perf_counter()
    with progress_bars() as progress:
        manifest = build_index(
            open_corpus(corpus),
            out=out,
            method=method,
            bm25=fill(BM25Config, options),
            encoder=None if encoder is None else fill(EncoderConfig, options, model=encoder),
            kind=kind,
            memory=memory,
            keep_vectors=vectors,
            hybrid=fill(HybridConfig, options),
            parts={name: folder for name, folder in (("bm25", bm25), ("dense", dense)) if folder is not None},
            threads=threads,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    print(f"{manifest.num_documents:,} documents indexed in {out} ({seconds:.1f} s, {folder_bytes(out) / 1e6:,.1f} MB)")
    print(f'\n  calibadv index search {out} "..."    look into it')
    print(f"  calibadv retriever serve {out}       serve it, or set retrieval.index in a run's config")


def open_corpus(path: Path) -> Corpus:
    """The corpus folder; a file is refused with the command that makes a folder of it."""
    if path.is_file():
        folder = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        raise ConfigError(
            f"{path} is a file, and an index belongs to a corpus folder; make one first: "
            f"calibadv corpus import {path} --out corpora/{folder}"
        )
    return Corpus.open(path)


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
