"""``calibadv eval``: evaluate a model, keep every finished rollout, continue after an interruption."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from calibadv.cli.eval.options import Form, Format, Json, Out, judge_of, takes_judge
from calibadv.cli.options import Arm, Names, Overrides, command, overrides_of, takes_settings
from calibadv.errors import ConfigError
from calibadv.evaluation.folder import RESULTS
from calibadv.evaluation.tables import no_format_note, render, summary_table
from calibadv.runs.evaluate import Split, evaluate, free_folder
from calibadv.runs.progress import progress_bars
from calibadv.runs.stoppable import stoppable
from calibadv.runs.targets import check_model, config_of, is_config, question_files, run_of

if TYPE_CHECKING:
    from calibadv.evaluation import EvalResult

SETTINGS = {
    "limit": "evaluation.limit",
    "samples": "evaluation.samples",
    "temperature": "evaluation.temperature",
    "seed": "training.seed",
    "top_k": "rollout.top_k",
    "max_searches": "rollout.max_searches",
    "engine": "model.engine",
    "model_url": "model.url",
}
"""Short options for settings."""

EXAMPLES = """\
  calibadv eval runs/lab                          what a lab or a run trained, on its data.test
  calibadv eval runs/lab --arm grpo               another arm of a lab
  calibadv eval runs/lab --checkpoint base        the model it started from
  calibadv eval runs/my-run --checkpoint checkpoint-20
  calibadv eval configs/lab.toml --limit 50 --samples 4
  calibadv eval runs/lab --temperature 0          greedy
  calibadv eval Qwen/Qwen2.5-3B-Instruct --data data/test.parquet --retriever http://127.0.0.1:8000
  calibadv eval my/model --data nq,bamboogle --source my/flashrag --retriever corpora/wiki/bm25 --out runs/mine
  calibadv eval gpt-x --engine openai --model-url https://host/v1 --data data --retriever corpora/wiki/bm25
  calibadv eval diff runs/a runs/b                paired comparison of two evaluations
  calibadv eval score traces.jsonl.gz             figures for rollouts that exist already

A target is a config (.toml), the folder of a run or a lab, or a model (a folder,
a .gguf file, a hub id or package:NAME), which needs --data and --retriever.

Finished rollouts are on disk as they finish: the same command with the same
--out continues where it stopped. Writes results.json, questions.jsonl (one line a
rollout), trajectories.jsonl.gz and manifest.json (hashes of model, index, prompt
and questions; sampling; versions). Only what the model itself wrote is graded.
"""

app = command("eval", examples=EXAMPLES)
app.command("calibadv.cli.eval.diff:app", name="diff", help="Compare two evaluations question by question.")
app.command("calibadv.cli.eval.score:app", name="score", help="Score rollouts that exist already.")


@app.default
@takes_judge
@takes_settings(SETTINGS)
def evaluate_command(
    target: Annotated[str, Parameter(help="A .toml config, the folder of a run or a lab, or a model.")],
    /,
    *,
    arm: Arm = None,
    checkpoint: Annotated[
        str | None,
        Parameter(
            metavar="DIR",
            help='A model folder, a checkpoint of the run by name, or "base" (default: what the run trained).',
        ),
    ] = None,
    data: Annotated[
        tuple[str, ...],
        Parameter(
            metavar="DIR|NAMES|FILES",
            help="Question files, folders of them, or names of data sets in --source (commas; repeatable).",
            show_default=False,
        ),
    ] = (),
    source: Annotated[str, Parameter(metavar="hub|FOLDER", help="Where names are looked up.")] = "hub",
    datasets: Annotated[Names, Parameter(help="Only these data sets of the files.", show_default=False)] = (),
    split: Annotated[Split, Parameter(help="Which questions.")] = "test",
    retriever: Annotated[
        str | None, Parameter(metavar="URL|INDEX|CORPUS", help="Servers (commas), an index folder, or a corpus.")
    ] = None,
    overrides: Overrides = (),
    out: Out = None,
    format: Format = "text",
    json: Json = False,
    **options: Any,
) -> None:
    """Evaluate a model: of a config, of a run, or any other."""
    run = run_of(Path(target), arm=arm)
    target = target if run == Path(target) else str(run)
    sections = {}
    if not is_config(target):
        check_complete(target, data=data, retriever=retriever)
        if options["temperature"] is None and options["samples"] in (None, 1):
            sections = {"evaluation": {"temperature": 0.0}}
    if data:
        files = [str(path.absolute()) for path in question_files(data, split=split, source=source)]
        overrides = (*overrides, f"data.{split}={dumps(files)}")
    overrides = (*overrides, *overrides_of(SETTINGS, options))
    config = config_of(target, checkpoint=checkpoint, retriever=retriever, overrides=overrides, sections=sections)
    asked = judge_of(options)
    folder = out or free_folder(target, split=split)
    with stoppable(folder), progress_bars() as progress:
        result = evaluate(config, out=folder, split=split, datasets=datasets, judge=asked, progress=progress)
    show_results(result, folder, format="json" if json else format)
    if (note := no_format_note(result.summaries)) is not None:
        print(f"\n{note}", file=sys.stderr)


def check_complete(target: str, *, data: Sequence[str], retriever: str | None) -> None:
    """A model brings neither questions nor a retriever."""
    check_model(target)
    missing = [name for name, given in (("--data", data), ("--retriever", retriever)) if not given]
    if missing:
        raise ConfigError(
            f"{target} is taken for a model, which needs {' and '.join(missing)}; or name a .toml config or the folder "
            "of a run"
        )


def show_results(result: EvalResult, folder: Path, *, format: Form) -> None:
    """The figures of an evaluation."""
    if format == "json":
        print((folder / RESULTS).read_text(encoding="utf-8"), end="")
        return
    print(render(summary_table(result.summaries), format=format, caption=f"Evaluation {folder.name}"))
    if format == "text":
        print(f"95 % bootstrap intervals over questions; counts are per rollout. Written to {folder}")
