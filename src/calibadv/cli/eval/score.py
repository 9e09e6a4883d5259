"""``calibadv eval score``: figures for rollouts that exist already."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibadv.cli.eval.judge_options import add_judge_options, judge_of
from calibadv.cli.eval.run import add_format_options, as_json_text, check_folder, progress_line
from calibadv.cli.options import new_command
from calibadv.errors import DataError

if TYPE_CHECKING:
    from calibadv.evaluation import EvalResult

EPILOG = """\
examples
  calibadv eval score runs/lab/trajectories/step-00010.jsonl.gz
  calibadv eval score traces.jsonl.gz                   one table per run of the file
  calibadv eval score traces.jsonl.gz --run v1-base --out runs/v1-base --format markdown

files
  trajectories of this package (.jsonl, .jsonl.gz, .parquet), or traces of other systems: JSON lines with "response"
  and, where known, "prompt", "question", "golden_answers", "id", "dataset", "run". Searches may be written with tags
  (Search-R1), with <|begin_of_query|> (R1-Searcher) or with <tool_call> messages. What was handed to the model is
  taken out first: only what the model itself wrote is graded. Tokens and garbled text are known for our own files.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "eval score",
        help="score rollouts that exist already (ours, or traces of other systems)",
        description="Figures for trajectories or traces.",
        epilog=EPILOG,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="trajectories or traces")
    parser.add_argument("--run", metavar="NAME", help="only runs whose name holds this")
    parser.add_argument("--score", choices=("f1", "em", "cem"), default="f1", help="of the reward (default: f1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json and questions.jsonl, for eval diff")
    add_judge_options(parser)
    add_format_options(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Score and show."""
    from calibadv.evaluation import as_json, read_traces, score_traces

    if arguments.out is not None:
        check_folder(arguments.out)
    traces = chain.from_iterable(read_traces(path) for path in arguments.files)
    results = score_traces(
        (trace for trace in traces if not arguments.run or arguments.run in trace.run), score=arguments.score
    )
    if not results:
        which = f" whose run holds {arguments.run!r}" if arguments.run else ""
        raise DataError(f"{', '.join(map(str, arguments.files))}: no rollouts{which}")
    judge = judge_of(arguments)
    if judge is not None:
        results = {name: judge.judge(result, progress=progress_line("judged")) for name, result in results.items()}
    if arguments.out is not None:
        write(results, arguments)
    if arguments.format == "json":
        print(as_json_text({name: as_json(result) for name, result in results.items()}))
    else:
        show(results, format=arguments.format)


def show(results: dict[str, EvalResult], *, format: str) -> None:
    """A table per run."""
    from calibadv.evaluation.tables import render, summary_table

    for name, result in results.items():
        if name and format != "latex":
            print(f"\n{name}" if format == "text" else f"\n### {name}\n")
        print(render(summary_table(result.summaries, seconds=False), format=format, caption=name))


def write(results: dict[str, EvalResult], arguments: argparse.Namespace) -> None:
    """results.json by run, and a line per rollout."""
    from calibadv.evaluation import as_json
    from calibadv.evaluation.folder import write_score
    from calibadv.io.provenance import file_sha256, versions

    write_score(
        results,
        arguments.out,
        results={name: as_json(result) for name, result in results.items()},
        manifest={
            "files": {str(path): file_sha256(path) for path in arguments.files},
            "score": arguments.score,
            "versions": versions(),
        },
    )
