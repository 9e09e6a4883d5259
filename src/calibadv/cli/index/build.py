"""``calibadv index build``: make a corpus searchable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import command, fill, takes
from calibadv.io.packages import require_packages
from calibadv.retrieval.bm25 import BM25Config
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.hybrid import HybridConfig
from calibadv.runs.index import IndexConfig, build_index, folder_bytes, open_corpus
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
@takes(HybridConfig, group="Hybrid")
@takes(IndexConfig, "bm25", "dense", group="Hybrid")
@takes(EncoderConfig, skip=("model",), group="Dense")
@takes(IndexConfig, "kind", "memory", "vectors", group="Dense")
@takes(BM25Config, group="BM25")
@takes(IndexConfig, "threads", group="BM25")
@takes(IndexConfig, "method")
def run(
    corpus: Annotated[Path, Parameter(help="A folder of calibadv corpus import.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(metavar="DIR", help="Folder of the index (default: CORPUS/METHOD).")] = None,
    encoder: Annotated[
        str | None, Parameter(group="Dense", metavar="MODEL", help="Makes the vectors: a folder or a hub id.")
    ] = None,
    **options: Any,
) -> None:
    """Build an index of a corpus folder."""
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    config = fill(IndexConfig, options)
    out = out or corpus / config.method
    start = time.perf_counter()
    with progress_bars() as progress:
        manifest = build_index(
            open_corpus(corpus),
            out=out,
            config=config,
            bm25=fill(BM25Config, options),
            encoder=None if encoder is None else fill(EncoderConfig, options, model=encoder),
            hybrid=fill(HybridConfig, options),
            progress=progress,
        )
    seconds = time.perf_counter() - start
    print(f"{manifest.num_documents:,} documents indexed in {out} ({seconds:.1f} s, {folder_bytes(out) / 1e6:,.1f} MB)")
    print(f'\n  calibadv index search {out} "..."    look into it')
    print(f"  calibadv retriever serve {out}       serve it, or set retrieval.index in a run's config")
