"""``calibadv index convert`` and ``pull``: indexes of another kind, and published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import command, fill, takes
from calibadv.io.packages import require_packages
from calibadv.retrieval.dense.pull import PullConfig
from calibadv.retrieval.dense.pull import pull as pull_index
from calibadv.retrieval.dense.sizing import format_size
from calibadv.runs.convert import ConvertConfig
from calibadv.runs.convert import convert as convert_index
from calibadv.runs.progress import progress_bar

CONVERT_EXAMPLES = """\
  calibadv index convert corpora/wiki/dense --to ivf-pq --out corpora/wiki/dense-pq
  calibadv index convert e5_Flat.index --to sq8
  calibadv index convert e5_Flat.index --to ivf-sq8 --corpus corpora/wiki --encoder intfloat/e5-base-v2 --out wiki-sq8
  calibadv index convert e5_Flat.index --to as-is --corpus corpora/wiki --encoder intfloat/e5-base-v2 --out wiki-flat

An index folder, and a FAISS file with --corpus and --encoder, become an index
folder. A FAISS file alone becomes a FAISS file. A file of plain vectors is read
in chunks, never loaded; "as-is" makes a folder around the file where it is.
"""
PULL_EXAMPLES = """\
  calibadv index pull wiki-18 --out wiki-18                   exact index, 64 GB
  calibadv index pull wiki-18 --kind hnsw64 --out wiki-18     approximate, fast

Fetches PeterJinGo/wiki-18-corpus and PeterJinGo/wiki-18-e5-index (or -HNSW64)
from the Hugging Face hub. Stopped, the same command continues. HF_ENDPOINT names
another hub, HF_TOKEN logs in.

next
  calibadv retriever serve wiki-18/flat
"""
convert = command("convert", examples=CONVERT_EXAMPLES)
pull = command("pull", examples=PULL_EXAMPLES)


@convert.default
@takes(ConvertConfig)
def run_convert(
    source: Annotated[Path, Parameter(help="A FAISS file or a dense index folder.")], /, **options: Any
) -> None:
    """Make an index of another kind from an index folder or a FAISS file, without encoding again."""
    made = convert_index(source, config=fill(ConvertConfig, options))
    if made.why:
        print(made.why)
    is_folder = made.path.is_dir()
    what = "documents" if is_folder else "vectors"
    print(f"{made.count:,} {what}, {made.kind}, {format_size(made.num_bytes)} in {made.path}")
    if is_folder:
        print(f"\n  calibadv retriever serve {made.path}    serve it")
    else:
        print("A FAISS file for other programs; with --corpus, --encoder and --out it becomes a folder to search.")


@pull.default
@takes(PullConfig, "kind", "encoder")
def run_pull(
    name: Annotated[str, Parameter(help="wiki-18")],
    /,
    *,
    out: Annotated[Path | None, Parameter(metavar="DIR", help="Folder for corpus and index (default: NAME).")] = None,
    **options: Any,
) -> None:
    """Fetch a published corpus with its FAISS index from the Hugging Face hub."""
    require_packages("huggingface_hub", "httpx2", "pyarrow", extra="retrieval", what="fetching from the hub")
    require_packages("faiss", extra="dense", what="a FAISS index")
    out = out or Path(name)
    config = fill(PullConfig, options)
    with progress_bar("fetching corpus and index", is_bytes=True) as progress:
        manifest = pull_index(
            name,
            out=out,
            config=config,
            progress=None if progress is None else lambda _, done, total: progress(done, total),
        )
    print(f"{manifest.num_documents:,} documents in {out / 'corpus'}, their index in {out / config.kind}")
    print(f"\n  calibadv retriever serve {out / config.kind}    serve it")
