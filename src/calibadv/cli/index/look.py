"""``calibadv index search``, ``info`` and ``verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from calibadv.cli.options import Json, command, print_json, takes
from calibadv.errors import ConfigError, DataError
from calibadv.io.files import leaves
from calibadv.io.packages import require_packages
from calibadv.io.terminal import BOLD, DIM, Blocks, clean
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.index.verify import verify_index
from calibadv.retrieval.open import open_index
from calibadv.retrieval.server.config import BackendConfig
from calibadv.runs.index import describe_index
from calibadv.runs.progress import progress_bars

Folder = Annotated[Path, Parameter(name="INDEX", help="A folder of calibadv index build.")]
CorpusOption = Annotated[Path | None, Parameter(metavar="DIR", help="The corpus, when it is not where the index says.")]
EncoderOption = Annotated[
    str | None, Parameter(help="The encoder of a dense index, when it is not where the index says.")
]
SEARCH_EXAMPLES = """\
  calibadv index search corpora/wiki/bm25 "who wrote the first program"
  calibadv index search corpora/wiki/dense "who wrote the first program" -k 10
  calibadv index search corpora/wiki/bm25 "first program" --json    [{"id", "title", "text", "score"}, ...]
"""
SHORT = 240

search = command("search", examples=SEARCH_EXAMPLES)
info = command("info", examples="  calibadv index info corpora/wiki/bm25")
verify = command("verify", examples="  calibadv index verify corpora/wiki/bm25")


@search.default
@takes(BackendConfig, "corpus", "encoder", "device", "search_device")
def run_search(
    index: Folder,
    query: Annotated[str, Parameter(help="What to look for, in quotes.")],
    /,
    *,
    k: Annotated[PositiveInt, Parameter(name="-k", help="How many documents.")] = 5,
    json: Json = False,
    **options: Any,
) -> None:
    """Search an index and show what it finds, best first."""
    if not query.strip():
        raise ConfigError("QUERY is empty; put words to look for in quotes")
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    (hits,) = open_index(index, **options).search([query], k)
    rows: list[dict[str, Any]] = [
        {"id": hit.document.id, "title": hit.document.title, "text": hit.document.text, "score": hit.score}
        for hit in hits
    ]
    if json:
        print_json(rows)
        return
    blocks = Blocks(sys.stdout, width=100, limit=SHORT)
    for rank, row in enumerate(rows, start=1):
        print(
            blocks.paint(clean(f"{rank:>3}. {row['title'] or row['id']}  ({row['score']:.3f}, id {row['id']})"), BOLD)
        )
        print("\n".join(blocks.block("", row["text"], DIM)))
    if not rows:
        print("nothing found")


@info.default
def run_info(index: Folder, /, *, json: Json = False) -> None:
    """Say what an index is: method, parameters, corpus, size."""
    record = describe_index(index)
    if json:
        print_json(record)
        return
    for name, value in leaves(record | {"documents": f"{record['documents']:,}"}):
        print(f"{name:<36} {value}")


@verify.default
def run_verify(
    index: Folder, /, *, corpus: CorpusOption = None, encoder: EncoderOption = None, json: Json = False
) -> None:
    """Compare an index with its manifest, its corpus and its encoder; a problem makes the command fail."""
    require_packages("pyarrow", "tantivy", extra="retrieval", what="an index")
    opened = None if corpus is None else read_corpus(corpus)
    with progress_bars() as progress:
        checks = verify_index(index, corpus=opened, encoder=encoder, progress=progress)
    if json:
        print_json([{"check": c.name, "ok": c.ok, "found": c.figures, "problem": c.problem} for c in checks])
    else:
        for check in checks:
            mark = "WRONG" if check.problem else "ok   "
            print(f"{mark}  {check.name:<16}{check.figures or check.problem}")
    wrong = [check.name for check in checks if not check.ok]
    if wrong:
        raise DataError(f"{index}: {len(wrong)} of {len(checks)} checks failed: {', '.join(wrong)}")
