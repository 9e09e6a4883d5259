"""``calibadv data prepare``: question files for training and evaluation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.options import Json, Names, command, epilogue, fill, print_json, takes
from calibadv.data.prepare import PrepareConfig, open_source, prepare
from calibadv.data.prepare.selection import parse_weights
from calibadv.io.packages import require_packages

EXAMPLES = """\
  calibadv data prepare --datasets nq,hotpotqa --split train,test --out data
  calibadv data prepare --datasets nq,triviaqa,popqa,hotpotqa,2wikimultihopqa,musique,bamboogle --split test --out data
  calibadv data prepare --datasets hotpotqa,2wikimultihopqa --split train --mix 2,1 --limit 30000 --seed 1 --out data
  calibadv data prepare --source my/folder --datasets nq --split test --out data
"""
PREPARE_EXAMPLES = f"""{EXAMPLES}
sources
  hub       the published collection RUC-NLPIR/FlashRAG_datasets at a pinned
            commit (--revision for another one)
  FOLDER    NAME/SPLIT.jsonl, NAME.SPLIT.jsonl or NAME.jsonl, also .jsonl.gz and
            .parquet

Training questions that a test asks too (same words, or same id) are left out, as
are repeated ones; the report says which. Rows are counted against the published
numbers: a difference is an error for the hub, a warning for a folder.

writes, per split
  OUT/SPLIT.parquet        data_source, prompt, ability,
                           reward_model.ground_truth.target, extra_info.index
                           (Search-R1 and verl read these), id, question,
                           golden_answers, metadata (JSON text)
  OUT/SPLIT.report.json    files and their digests, rows read, removed, kept
"""

app = command("data", examples=EXAMPLES)


@app.command(name="prepare", help_epilogue=epilogue(PREPARE_EXAMPLES))
@takes(PrepareConfig, skip=("mix", "against"), splits="split", keep_metadata="metadata")
def prepare_command(
    *,
    out: Annotated[Path, Parameter(metavar="DIR", help="Where to write.")],
    source: Annotated[str, Parameter(metavar="hub|FOLDER", help="Where to read.")] = "hub",
    revision: Annotated[
        str | None, Parameter(metavar="COMMIT", help="Another revision of the hub's collection.")
    ] = None,
    mix: Annotated[
        str | None,
        Parameter(metavar="WEIGHTS", help="Of the data sets in the training split: 2,1 or nq=2,hotpotqa=1."),
    ] = None,
    against: Annotated[
        Names | None,
        Parameter(
            help="Data sets whose tests training must not hold, or none (default: of the seven and --datasets, those "
            "that the source has)."
        ),
    ] = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Make parquet files of questions that this package, Search-R1 and verl read."""
    require_packages("pyarrow", extra="retrieval", what="preparing data")
    if source == "hub":
        require_packages("huggingface_hub", extra="retrieval", what="reading from the hub")
    config = fill(
        PrepareConfig,
        options,
        mix=None if mix is None else parse_weights(mix, names=options["datasets"]),
        against=() if against == ("none",) else against,
    )
    reports = prepare(open_source(source, revision=revision), out=out, options=config)
    if json:
        print_json([asdict(report) for report in reports])
        return
    for report in reports:
        print(f"\n{report.as_text()}")
