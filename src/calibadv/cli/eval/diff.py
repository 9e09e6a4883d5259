"""``calibadv eval diff``: two evaluations of the same questions, paired."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from calibadv.cli.eval.options import Format, Json
from calibadv.cli.options import command, print_json

EXAMPLES = """\
  calibadv eval diff runs/lab-run/eval-test-1 runs/lab-run/eval-test-2
  calibadv eval diff runs/a runs/b --metric em --changed 20
  calibadv eval diff runs/a runs/b --common        when they were asked different questions

The difference is B minus A. Each question counts once: its samples are averaged,
the bootstrap draws questions, and p is two-sided. Questions must be the same in
both; unfinished evaluations can be compared with --common.
"""

app = command("diff", examples=EXAMPLES)


@app.default
def diff(
    before: Annotated[Path, Parameter(name="A", help="Folder of an evaluation, or its questions.jsonl.")],
    after: Annotated[Path, Parameter(name="B", help="The other one.")],
    /,
    *,
    metric: Annotated[str, Parameter(help="Decides wins and losses.")] = "f1",
    common: Annotated[
        bool, Parameter(help="Compare only the questions that both were asked.", show_default=False)
    ] = False,
    changed: Annotated[NonNegativeInt, Parameter(help="Show so many of the largest changes each way.")] = 5,
    seed: Annotated[int, Parameter(help="Of the bootstrap.")] = 0,
    format: Format = "text",
    json: Json = False,
) -> None:
    """Compare two evaluations of the same questions."""
    from calibadv.evaluation.compare import compare, read_evaluation
    from calibadv.evaluation.compare_text import changed_questions, comparison_table
    from calibadv.evaluation.tables import render

    comparison = compare(read_evaluation(before), read_evaluation(after), metric=metric, common=common, seed=seed)
    if json or format == "json":
        print_json(asdict(comparison))
        return
    print(render(comparison_table(comparison), format=format, caption=f"{after.name} minus {before.name}"))
    if format != "text":
        return
    print(f"B minus A; 95 % paired bootstrap over questions. A: {before}")
    print(f"B: {after}")
    if comparison.only_before or comparison.only_after:
        print(f"left out: {comparison.only_before} questions only in A, {comparison.only_after} only in B")
    print(changed_questions(comparison, number=changed))
