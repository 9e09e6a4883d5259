"""``calibadv eval score``: figures for rollouts that exist already."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

from cyclopts import Parameter

from calibadv.cli.eval.options import Form, Format, Json, Out, judge_of, takes_judge
from calibadv.cli.options import Files, command, print_json, takes
from calibadv.errors import DataError
from calibadv.evaluation import EvalResult, as_json, read_traces, score_traces
from calibadv.evaluation.folder import write_score
from calibadv.evaluation.tables import render, summary_table
from calibadv.io.provenance import file_sha256, versions
from calibadv.rewards.outcome import RewardConfig
from calibadv.runs.evaluate import check_folder
from calibadv.runs.progress import about, progress_bars

EXAMPLES = """\
  calibadv eval score runs/lab-run/trajectories/step-000010.jsonl.gz
  calibadv eval score traces.jsonl.gz                one table per run of the file
  calibadv eval score traces.jsonl.gz --run v1-base --out runs/v1-base --format markdown

Files are trajectories of this package (.jsonl, .jsonl.gz, .parquet), or traces of
other systems: JSON lines with "response" and, where known, "prompt", "question",
"golden_answers", "id", "dataset", "run". Searches may be written with tags
(Search-R1), with <|begin_of_query|> (R1-Searcher) or with <tool_call> messages.
What was handed to the model is taken out first: only what the model itself wrote
is graded. Tokens and garbled text are known for our own files.
"""

app = command("score", examples=EXAMPLES)


@app.default
@takes_judge
@takes(RewardConfig, "score")
def score(
    files: Files,
    /,
    *,
    run: Annotated[str | None, Parameter(metavar="NAME", help="Only runs whose name holds this.")] = None,
    out: Out = None,
    format: Format = "text",
    json: Json = False,
    **options: Any,
) -> None:
    """Figures for trajectories or traces."""
    score = options["score"]
    if out is not None:
        check_folder(out)
    asked = judge_of(options)
    traces = chain.from_iterable(read_traces(path) for path in files)
    results = score_traces((trace for trace in traces if not run or run in trace.run), score=score)
    if not results:
        which = f" whose run holds {run!r}" if run else ""
        raise DataError(f"{', '.join(map(str, files))}: no rollouts{which}")
    if asked is not None:
        with progress_bars() as progress:
            show = about(progress, "judged")
            results = {name: asked.judge(result, progress=show) for name, result in results.items()}
    figures = {name: as_json(result) for name, result in results.items()}
    if out is not None:
        digests = {str(path): file_sha256(path) for path in files}
        write_score(results, out, results=figures, manifest={"files": digests, "score": score, "versions": versions()})
    if json or format == "json":
        print_json(figures)
    else:
        show_tables(results, format=format)


def show_tables(results: dict[str, EvalResult], *, format: Form) -> None:
    """A table per run."""
    for name, result in results.items():
        if name and format != "latex":
            print(f"\n{name}" if format == "text" else f"\n### {name}\n")
        print(render(summary_table(result.summaries, seconds=False), format=format, caption=name))
