"""``calibadv index convert`` and ``pull``: indexes of another kind, and published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from calibadv.cli.options import command, fill, takes
from calibadv.errors import ConfigError
from calibadv.io.packages import require_packages
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.convert import convert_file, convert_index, open_origin
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.pull import PullConfig
from calibadv.retrieval.dense.pull import pull as pull_index
from calibadv.retrieval.dense.sizing import format_size, parse_size, plan_kind
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
Target = Literal["flat", "fp16", "sq8", "hnsw", "ivf-sq8", "ivf-pq", "as-is"]

convert = command("convert", examples=CONVERT_EXAMPLES)
pull = command("pull", examples=PULL_EXAMPLES)


@convert.default
def run_convert(
    source: Annotated[Path, Parameter(help="A FAISS file or a dense index folder.")],
    /,
    *,
    to: Annotated[Target | None, Parameter(help="The kind to make.")] = None,
    memory: Annotated[
        str | None, Parameter(metavar="SIZE", help="Choose the best kind that fits, such as 8GiB.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(metavar="PATH", help="New folder (default: INDEX-KIND) or file (NAME.KIND.index).")
    ] = None,
    corpus: Annotated[Path | None, Parameter(metavar="DIR", help="The corpus that was encoded.")] = None,
    encoder: Annotated[
        str | None, Parameter(metavar="MODEL", help="The encoder of a FAISS file: a folder or a hub id.")
    ] = None,
    vectors: Annotated[
        Literal["reference", "copy", "none"],
        Parameter(help="For re-scoring: use them where they are, copy them into the folder, or do without."),
    ] = "reference",
) -> None:
    """Make an index of another kind from an index folder or a FAISS file, without encoding again."""
    if (to is None) == (memory is None):
        raise ConfigError("name the kind of index with --to, or the memory that it may take with --memory")
    require_packages("faiss", extra="dense", what="converting an index")
    kind: Any = to
    if memory is not None:
        origin = open_origin(source).source
        plan = plan_kind(origin.num_vectors, dimension=origin.dimension, memory_bytes=parse_size(memory))
        print(plan.why)
        kind = plan.kind
    if source.is_dir() or corpus is not None or encoder is not None or kind == "as-is":
        folder = out or (Path(f"{source}-{kind}") if source.is_dir() else None)
        if folder is None:
            raise ConfigError("--out is missing: name a new folder for the index")
        manifest = convert_index(
            source,
            to=kind,
            out=folder,
            corpus=None if corpus is None else Corpus.open(corpus),
            encoder=None if encoder is None else EncoderConfig(model=encoder),
            keep=vectors,
        )
        size = format_size(manifest.parameters["index"]["bytes"])
        print(f"{manifest.num_documents:,} documents, {kind}, {size} in {folder}")
        print(f"\n  calibadv retriever serve {folder}    serve it")
        return
    file = out or source.with_name(f"{source.name.removesuffix('.index')}.{kind}.index")
    made = convert_file(source, to=kind, out=file)
    print(f"{made.num_vectors:,} vectors, {kind}, {format_size(file.stat().st_size)} in {file}")
    print("A FAISS file for other programs; with --corpus, --encoder and --out it becomes an index folder to search.")


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
            options=config,
            progress=None if progress is None else lambda _, done, total: progress(done, total),
        )
    print(f"{manifest.num_documents:,} documents in {out / 'corpus'}, their index in {out / config.kind}")
    print(f"\n  calibadv retriever serve {out / config.kind}    serve it")
