"""``calibadv index build``, ``info`` and ``verify``."""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import (
    add_corpus_option,
    add_device_option,
    add_encoder_option,
    new_command,
    positive,
    require_packages,
)
from calibadv.cli.terminal import progress_bar, progress_bars
from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.corpus.read import read_corpus

if TYPE_CHECKING:
    from calibadv.retrieval.corpus.corpus import Corpus
    from calibadv.retrieval.dense.encoder_config import EncoderConfig
    from calibadv.retrieval.index.manifest import IndexManifest

logger = logging.getLogger(__name__)

BUILD_EPILOG = """\
examples
  calibadv index build corpora/wiki --method bm25
  calibadv index build corpora/wiki --method dense --encoder intfloat/e5-base-v2 --memory 8GiB
  calibadv index build corpora/wiki --method hybrid --encoder intfloat/e5-base-v2

A dense build that was stopped goes on where it was: give the same command again. BM25 appears when it is complete.
next
  calibadv index recall corpora/wiki/bm25 --questions questions.jsonl
  calibadv retriever serve corpora/wiki/bm25
"""
ENCODER_OPTIONS = {
    "pooling": "pooling",
    "query_prefix": "query_prefix",
    "passage_prefix": "passage_prefix",
    "max_length": "max_length",
    "dtype": "dtype",
    "batch_size": "batch_size",
    "device": "device",
}


def add_tools(tools: Any) -> None:
    """Add the tools of this module to ``calibadv index``."""
    _add_build(tools)
    for name, command, text in (
        ("info", run_info, "say what an index is: method, parameters, corpus, size"),
        ("verify", run_verify, "compare an index with its manifest, its corpus and its encoder"),
    ):
        example = f"example\n  calibadv index {name} corpora/wiki/bm25"
        parser = new_command(tools, name, help=text, description=text.capitalize() + ".", epilog=example)
        parser.add_argument("index", type=Path, metavar="INDEX_DIR", help="a folder of calibadv index build")
        parser.add_argument("--json", action="store_true", help="print JSON")
        if name == "verify":
            add_corpus_option(parser)
            add_encoder_option(parser)
            parser.add_argument(
                "--note-digests",
                action="store_true",
                help="keep the digests of a dense index built before they were: its files now count as what was built",
            )
        parser.set_defaults(command=command)


def _add_build(tools: Any) -> None:
    parser = new_command(
        tools,
        "build",
        help="make a corpus searchable",
        description="Build an index of a corpus folder.",
        epilog=BUILD_EPILOG,
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS_DIR", help="a folder of calibadv corpus import")
    parser.add_argument("--method", choices=("bm25", "dense", "hybrid"), default="bm25", help="default: bm25")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the index (default: CORPUS_DIR/METHOD)")
    bm25 = parser.add_argument_group("bm25")
    bm25.add_argument(
        "--stop-words", choices=("english", "none"), default="english", help="left out (default: english)"
    )
    bm25.add_argument("--k1", type=float, metavar="X", help="saturation; other than 1.2 is slower (default: 1.2)")
    bm25.add_argument("--b", type=float, metavar="X", help="length; other than 0.75 is slower (default: 0.75)")
    bm25.add_argument("--threads", type=positive, metavar="N", help="indexing threads (default: up to one per CPU)")
    dense = parser.add_argument_group("dense")
    dense.add_argument("--encoder", metavar="MODEL", help="a folder or a hub id")
    size = dense.add_mutually_exclusive_group()
    size.add_argument("--kind", help="flat, fp16, sq8, hnsw, ivf-sq8 or ivf-pq (default: flat)")
    size.add_argument("--memory", metavar="SIZE", help="choose the best kind that fits, such as 8GiB")
    dense.add_argument("--pooling", choices=("mean", "cls", "last", "pooler"), help="default: the encoder's convention")
    dense.add_argument("--query-prefix", metavar="TEXT", help="put before queries (default: the encoder's convention)")
    dense.add_argument("--passage-prefix", metavar="TEXT", help="put before documents (default: the same)")
    dense.add_argument("--max-length", type=positive, metavar="N", help="tokens of a document; the rest is cut")
    dense.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), help="arithmetic (default: auto)")
    dense.add_argument("--batch-size", type=positive, metavar="N", help="documents at once (default: 64)")
    add_device_option(dense)
    dense.add_argument("--no-vectors", action="store_true", help="remove the vectors when the index is made")
    hybrid = parser.add_argument_group("hybrid")
    hybrid.add_argument(
        "--bm25", type=Path, metavar="DIR", help="its BM25 index (default: CORPUS_DIR/bm25, built if absent)"
    )
    hybrid.add_argument(
        "--dense", type=Path, metavar="DIR", help="its dense index (default: CORPUS_DIR/dense, the same)"
    )
    hybrid.add_argument(
        "--rrf-k", type=positive, default=60, metavar="N", help="reciprocal rank constant (default: 60)"
    )
    hybrid.add_argument(
        "--depth", type=positive, default=100, metavar="N", help="candidates of each part (default: 100)"
    )
    parser.set_defaults(command=run_build)


def run_build(arguments: argparse.Namespace) -> None:
    """Build what was asked for."""
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    corpus = open_corpus(arguments.corpus)
    out = arguments.out or arguments.corpus / arguments.method
    start = time.perf_counter()
    build = {"bm25": build_bm25_part, "dense": build_dense_part, "hybrid": build_hybrid}[arguments.method]
    manifest = build(corpus, arguments, out)
    seconds = time.perf_counter() - start
    print(f"{manifest.num_documents:,} documents indexed in {out} ({seconds:.1f} s, {folder_bytes(out) / 1e6:,.1f} MB)")
    print(f"\n  calibadv retriever serve {out}    serve it, or set retrieval.index in a run's config")


def open_corpus(path: Path) -> Corpus:
    """The corpus folder; a file is refused with the command that makes a folder of it."""
    from calibadv.retrieval.corpus.corpus import Corpus

    if path.is_file():
        folder = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        raise ConfigError(
            f"{path} is a file, and an index belongs to a corpus folder; make one first: "
            f"calibadv corpus import {path} --out corpora/{folder}"
        )
    return Corpus.open(path)


def build_bm25_part(corpus: Corpus, arguments: argparse.Namespace, out: Path) -> IndexManifest:
    """A BM25 index."""
    from calibadv.retrieval.bm25 import BM25Config, build_bm25

    weights = {name: getattr(arguments, name) for name in ("k1", "b") if getattr(arguments, name) is not None}
    config = BM25Config(stop_words=arguments.stop_words, **weights)
    with progress_bar("indexing words") as progress:
        return build_bm25(corpus, out=out, config=config, threads=arguments.threads, progress=progress)


def build_dense_part(corpus: Corpus, arguments: argparse.Namespace, out: Path) -> IndexManifest:
    """A dense index, continued where an earlier build stopped."""
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a dense index")
    from calibadv.retrieval.dense.build import build_dense
    from calibadv.retrieval.dense.encoder_config import describe
    from calibadv.retrieval.dense.sizing import parse_size, plan_kind

    config = encoder_config(arguments)
    dimension = describe(config).dimension  # an encoder that is not there leaves no folder behind
    kind: Any = arguments.kind or "flat"
    if arguments.memory is not None:
        plan = plan_kind(len(corpus), dimension=dimension, memory_bytes=parse_size(arguments.memory))
        kind = plan.kind
        print(plan.why)
    with progress_bar("encoding") as progress:
        return build_dense(
            corpus,
            index_dir=out,
            encoder_config=config,
            kind=kind,
            keep_vectors=not arguments.no_vectors,
            progress=progress,
        )


def encoder_config(arguments: argparse.Namespace) -> EncoderConfig:
    """The encoder that the options name."""
    from calibadv.retrieval.dense.encoder_config import EncoderConfig

    if arguments.encoder is None:
        raise ConfigError("--encoder is missing: name a folder or a hub id, such as intfloat/e5-base-v2")
    given = {field: getattr(arguments, option) for option, field in ENCODER_OPTIONS.items()}
    return EncoderConfig(model=arguments.encoder, **{name: value for name, value in given.items() if value is not None})


def build_hybrid(corpus: Corpus, arguments: argparse.Namespace, out: Path) -> IndexManifest:
    """A hybrid of two indexes that are there, or are built now."""
    require_packages("torch", "sentence_transformers", "faiss", extra="dense", what="a hybrid index")
    from calibadv.retrieval.hybrid import HybridConfig, write_hybrid
    from calibadv.retrieval.index.folder import check_new_folder, corpus_place
    from calibadv.retrieval.index.manifest import MANIFEST
    from calibadv.retrieval.open import open_index

    check_new_folder(out)
    folders = {name: getattr(arguments, name) or arguments.corpus / name for name in ("bm25", "dense")}
    for name, build in (("bm25", build_bm25_part), ("dense", build_dense_part)):
        if not (folders[name] / MANIFEST).exists():
            build(corpus, arguments, folders[name])
        elif name == "dense":
            check_encoder_option(folders[name], arguments.encoder)
    parts: Any = {name: open_index(folder, corpus=corpus, device=arguments.device) for name, folder in folders.items()}
    return write_hybrid(
        folders,
        parts=parts,
        out=out,
        place=corpus_place(corpus, out),
        config=HybridConfig(rrf_k=arguments.rrf_k, depth=arguments.depth),
    )


def check_encoder_option(dense: Path, encoder: str | None) -> None:
    """Refuse an index that is there already but is of another encoder than the one asked for."""
    from calibadv.retrieval.index.manifest import IndexManifest

    built_with = str(IndexManifest.read(dense).parameters.get("encoder", {}).get("model"))
    if encoder is not None and built_with != encoder and Path(built_with).absolute() != Path(encoder).absolute():
        raise ConfigError(
            f"--encoder {encoder}: the dense index in {dense} was built with {built_with}; leave the option out to use "
            "that index, or name the folder of another one (--dense)"
        )
    logger.info("Using the dense index in %s", dense)


def run_info(arguments: argparse.Namespace) -> None:
    """Describe an index."""
    from calibadv.io.files import leaves
    from calibadv.retrieval.index.manifest import IndexManifest

    manifest = IndexManifest.read(arguments.index)
    record = {
        "method": manifest.method,
        "documents": manifest.num_documents,
        "bytes": folder_bytes(arguments.index),
        "corpus": manifest.corpus,
        "corpus_sha256": manifest.corpus_sha256,
        "version": manifest.version,
        "parameters": dict(manifest.parameters),
        "versions": dict(manifest.versions),
    }
    if arguments.json:
        print(json.dumps(record, indent=1))
        return
    for name, value in leaves(record | {"documents": f"{manifest.num_documents:,}"}):
        print(f"{name:<36} {value}")


def run_verify(arguments: argparse.Namespace) -> None:
    """Check an index; a problem makes the command fail."""
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    from calibadv.retrieval.index.verify import VerifyOptions, verify_index

    corpus = None if arguments.corpus is None else read_corpus(arguments.corpus)
    with progress_bars() as progress:
        options = VerifyOptions(encoder=arguments.encoder, note_digests=arguments.note_digests, progress=progress)
        checks = verify_index(arguments.index, corpus=corpus, options=options)
    if arguments.json:
        rows = [
            {"check": c.name, "ok": c.ok, "found": c.figures, "not_checked": c.gap, "problem": c.problem}
            for c in checks
        ]
        print(json.dumps(rows, indent=1))
    else:
        for check in checks:
            mark = "WRONG" if check.problem else "?    " if check.gap else "ok   "
            print(f"{mark}  {check.name:<16}{check.figures or check.gap or check.problem}")
    wrong = [check.name for check in checks if not check.ok]
    if wrong:
        raise DataError(f"{arguments.index}: {len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}")


def folder_bytes(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
