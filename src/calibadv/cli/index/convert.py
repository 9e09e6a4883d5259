"""``calibadv index convert`` and ``pull``: indexes of another kind, and published ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import new_command, require_packages
from calibadv.cli.terminal import progress_bar
from calibadv.errors import ConfigError

if TYPE_CHECKING:
    from calibadv.retrieval.dense.kinds import IndexParameters

CONVERT_EPILOG = """\
examples
  calibadv index convert corpora/wiki/dense --to ivf-pq --out corpora/wiki/dense-pq
  calibadv index convert e5_Flat.index --to sq8
  calibadv index convert e5_Flat.index --to ivf-sq8 --corpus corpora/wiki --encoder intfloat/e5-base-v2 --out wiki-sq8
  calibadv index convert e5_Flat.index --to as-is --corpus corpora/wiki --encoder intfloat/e5-base-v2 --out wiki-flat

An index folder, and a FAISS file with --corpus and --encoder, become an index folder. A FAISS file alone becomes a
FAISS file. A file of plain vectors is read in chunks, never loaded; "as-is" makes a folder around the file where it is.
"""
PULL_EPILOG = """\
examples
  calibadv index pull wiki-18 --out wiki-18                   exact index, 64 GB
  calibadv index pull wiki-18 --kind hnsw64 --out wiki-18     approximate, fast
  calibadv retriever serve wiki-18/flat

Fetches PeterJinGo/wiki-18-corpus and PeterJinGo/wiki-18-e5-index (or -HNSW64) from the Hugging Face hub. Stopped, the
same command goes on. HF_ENDPOINT names another hub, HF_TOKEN logs in.
"""
TARGETS = ("flat", "fp16", "sq8", "hnsw", "ivf-sq8", "ivf-pq", "as-is")


def add_tools(tools: Any) -> None:
    """Add the tools of this module to ``calibadv index``."""
    _add_convert(tools)
    _add_pull(tools)


def _add_convert(tools: Any) -> None:
    parser = new_command(
        tools,
        "convert",
        help="make an index of another kind without encoding again",
        description="Make an index of another kind from an index folder or a FAISS file.",
        epilog=CONVERT_EPILOG,
    )
    parser.add_argument("source", type=Path, metavar="FILE|INDEX_DIR", help="a FAISS file or a dense index folder")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", choices=TARGETS, metavar="KIND", help=", ".join(TARGETS))
    target.add_argument("--memory", metavar="SIZE", help="choose the best kind that fits, such as 8GiB")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="new folder (default: INDEX_DIR-KIND) or file (default: NAME.KIND.index)",
    )
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="the corpus that was encoded")
    parser.add_argument("--encoder", metavar="MODEL", help="the encoder of a FAISS file: a folder or a hub id")
    parser.add_argument(
        "--vectors",
        choices=("reference", "copy", "none"),
        default="reference",
        help="for re-scoring: use the vectors where they are, copy them into the folder, or do without",
    )
    parser.set_defaults(command=run_convert)


def _add_pull(tools: Any) -> None:
    parser = new_command(
        tools,
        "pull",
        help="fetch a published corpus with its index",
        description="Fetch a published corpus with its FAISS index from the Hugging Face hub.",
        epilog=PULL_EPILOG,
    )
    parser.add_argument("name", metavar="NAME", help="wiki-18")
    parser.add_argument("--kind", default="flat", help="flat or hnsw64 (default: flat)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for corpus and index (default: NAME)")
    parser.add_argument("--encoder", metavar="MODEL", help="where the encoder is, if not on the hub")
    parser.set_defaults(command=run_pull)


def run_convert(arguments: argparse.Namespace) -> None:
    """Convert and say what came of it."""
    require_packages("faiss", extra="dense", what="converting an index")
    from calibadv.retrieval.dense.convert import convert_file, convert_index, open_origin
    from calibadv.retrieval.dense.sizing import format_size, parse_size, plan_kind

    source, kind = arguments.source, arguments.to
    if kind is None:
        vectors = open_origin(source).source
        memory = parse_size(arguments.memory)
        plan = plan_kind(vectors.num_vectors, dimension=vectors.dimension, memory_bytes=memory)
        print(plan.why)
        kind = plan.kind
    if source.is_dir() or arguments.corpus is not None or arguments.encoder is not None or kind == "as-is":
        out = _index_folder(arguments, kind=kind)
        manifest = convert_index(
            source,
            to=kind,
            out=out,
            corpus=_corpus(arguments.corpus),
            encoder=_encoder(arguments.encoder),
            keep=arguments.vectors,
        )
        size = format_size(manifest.parameters["index"]["bytes"])
        print(f"{manifest.num_documents:,} documents, {kind}, {size} in {out}")
        print(f"\n  calibadv retriever serve {out}    serve it")
        return
    out = arguments.out or source.with_name(f"{source.name.removesuffix('.index')}.{kind}.index")
    parameters: IndexParameters = convert_file(source, to=kind, out=out)
    print(f"{parameters.num_vectors:,} vectors, {kind}, {format_size(out.stat().st_size)} in {out}")
    print("A FAISS file for other programs; with --corpus, --encoder and --out it becomes an index folder to search.")


def run_pull(arguments: argparse.Namespace) -> None:
    """Fetch, join, import."""
    require_packages("huggingface_hub", "httpx2", "pyarrow", extra="retrieval", what="fetching from the hub")
    require_packages("faiss", extra="dense", what="a FAISS index")
    from calibadv.retrieval.dense.pull import PullOptions, pull

    out = arguments.out or Path(arguments.name)
    options = PullOptions(kind=arguments.kind, encoder=arguments.encoder)
    with progress_bar("fetching corpus and index", is_bytes=True) as progress:
        manifest = pull(
            arguments.name,
            out=out,
            options=options,
            progress=None if progress is None else lambda _, done, total: progress(done, total),
        )
    print(f"{manifest.num_documents:,} documents in {out / 'corpus'}, their index in {out / arguments.kind}")
    print(f"\n  calibadv retriever serve {out / arguments.kind}    serve it")


def _index_folder(arguments: argparse.Namespace, *, kind: str) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    if arguments.source.is_dir():
        return Path(f"{arguments.source}-{kind}")
    raise ConfigError("--out is missing: name a new folder for the index")


def _corpus(folder: Path | None) -> Any:
    from calibadv.retrieval.corpus.corpus import Corpus

    return None if folder is None else Corpus.open(folder)


def _encoder(model: str | None) -> Any:
    from calibadv.retrieval.dense.encoder_config import EncoderConfig

    return None if model is None else EncoderConfig(model=model)
