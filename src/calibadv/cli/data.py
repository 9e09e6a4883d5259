"""``calibadv data prepare``: question files for training and evaluation."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.options import names, new_command, positive, require_packages
from calibadv.cli.terminal import print_table

if TYPE_CHECKING:
    from calibadv.data.prepare import SplitReport

EPILOG = """\
examples
  calibadv data prepare --datasets nq,hotpotqa --split train,test --out data
  calibadv data prepare --datasets nq,triviaqa,popqa,hotpotqa,2wikimultihopqa,musique,bamboogle --split test --out data
  calibadv data prepare --datasets hotpotqa,2wikimultihopqa --split train --mix 2,1 --limit 30000 --seed 1 --out data
  calibadv data prepare --source my/folder --datasets nq --split test --out data
"""
PREPARE_EPILOG = """\
sources
  hub       the published collection RUC-NLPIR/FlashRAG_datasets at a pinned commit (--revision for another one)
  FOLDER    NAME/SPLIT.jsonl, NAME.SPLIT.jsonl or NAME.jsonl, also .jsonl.gz and .parquet

Training questions that a test asks too (same words, or same id) are left out, as are repeated ones; the report says
which. Rows are counted against the published numbers: a difference is an error for the hub, a warning for a folder.

writes, per split
  OUT/SPLIT.parquet        data_source, prompt, ability, reward_model.ground_truth.target, extra_info.index (Search-R1
                           and verl read these), id, question, golden_answers, metadata (JSON text)
  OUT/SPLIT.report.json    files and their digests, rows read, removed, kept
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand and its own subcommands."""
    parser = new_command(
        commands,
        "data",
        help="prepare the questions of the seven benchmarks, or your own",
        description="Prepare question files for training and evaluation.",
        epilog=EPILOG,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    prepare = new_command(
        actions,
        "prepare",
        help="read, check, de-duplicate, draw, mix, write parquet",
        description="Make parquet files of questions that this package, Search-R1 and verl read.",
        epilog=EPILOG + "\n" + PREPARE_EPILOG,
    )
    prepare.add_argument("--datasets", type=names, required=True, metavar="NAMES", help="separated by commas")
    prepare.add_argument("--split", type=names, required=True, metavar="SPLITS", help="train, dev, test (commas)")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    prepare.add_argument("--source", default="hub", metavar="hub|FOLDER", help="where to read (default: hub)")
    prepare.add_argument("--revision", metavar="COMMIT", help="another revision of the hub's collection")
    prepare.add_argument(
        "--limit", type=positive, metavar="N", help="at most N questions a data set (of the mixture with --mix)"
    )
    prepare.add_argument("--mix", metavar="WEIGHTS", help="of the training split: 2,1 or nq=2,hotpotqa=1")
    prepare.add_argument("--seed", type=int, default=0, metavar="S", help="of draws and of the training order")
    prepare.add_argument(
        "--against",
        type=names,
        metavar="NAMES|none",
        help="data sets whose tests training must not hold (default: of the seven and --datasets, what the source has)",
    )
    prepare.add_argument("--prompt", default="search", metavar="NAME", help="wording of the prompt column")
    prepare.add_argument("--prefix", default="", help="put before names in data_source; verl's scorer: searchR1_")
    prepare.add_argument("--no-metadata", action="store_true", help="leave the metadata column empty")
    prepare.add_argument("--allow-count-mismatch", action="store_true", help="accept counts that are not the published")
    prepare.add_argument("--skip-bad", action="store_true", help="leave bad rows out instead of refusing the file")
    prepare.add_argument("--overwrite", action="store_true", help="replace files of an earlier preparation")
    prepare.add_argument("--json", action="store_true", help="print the reports as JSON")
    prepare.set_defaults(command=run_prepare)


def run_prepare(arguments: argparse.Namespace) -> None:
    """Prepare and say what was done."""
    from calibadv.data.prepare import PrepareOptions, open_source, prepare
    from calibadv.data.prepare.selection import parse_weights

    require_packages("pyarrow", extra="retrieval", what="preparing data")
    if arguments.source == "hub":
        require_packages("huggingface_hub", extra="retrieval", what="reading from the hub")
    against = arguments.against
    options = PrepareOptions(
        datasets=arguments.datasets,
        splits=arguments.split,
        limit=arguments.limit,
        seed=arguments.seed,
        mix=None if arguments.mix is None else parse_weights(arguments.mix, names=arguments.datasets),
        against=() if against == ("none",) else against,
        prompt=arguments.prompt,
        prefix=arguments.prefix,
        keep_metadata=not arguments.no_metadata,
        allow_count_mismatch=arguments.allow_count_mismatch,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    reports = prepare(open_source(arguments.source, revision=arguments.revision), out=arguments.out, options=options)
    if arguments.json:
        print(json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False))
        return
    for report in reports:
        show(report)


def show(report: SplitReport) -> None:
    """One split's report for a terminal."""
    print(f"\n{report.path}: {report.rows:,} questions")
    header = ["data set", "split read", "rows", "published", "unusable", "as in a test", "repeated", "kept"]
    rows = []
    for part in report.datasets:
        in_test = sum(number for reason, number in part.removed.items() if "test" in reason)
        rows.append(
            [
                part.name,
                part.split_read,
                f"{part.rows:,}",
                "?" if part.published is None else f"{part.published:,}",
                f"{part.unusable:,}",
                str(in_test),
                str(part.removed.get("repeated", 0)),
                f"{part.kept:,}",
            ]
        )
    print_table(header, rows)
    if report.compared_with:
        print(f"compared with the tests of {', '.join(report.compared_with)}")
    for example in report.examples[:3]:
        print(
            f"  left out: {example.dataset}/{example.id} ({example.reason}: {example.other}) {example.question[:80]!r}"
        )
    if report.repeated:
        print(f"{report.repeated} questions repeat the words of another one; a test is kept as published")
