"""`calibadv eval score` over the trace files of miniwiki, against what the published code reads from the same rollouts.

The golden file covers the ``archive_*`` runs of ``traces.jsonl.gz``; all of its 5,375 records are compared. The other
runs of both files have no recorded reading: for those we check what their own fields promise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibadv.evaluation import EvalResult, read_traces, score_traces

ARCHIVED = re.compile(r"archive_(v\d)/.*_(base|instruct)_seed1")

pytestmark = pytest.mark.golden


def scored(path: Path) -> dict[str, EvalResult]:
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {path.parent} (CALIBADV_MINIWIKI)")
    return score_traces(read_traces(path))


@pytest.fixture(scope="module")
def search_r1(miniwiki: Path) -> dict[str, EvalResult]:
    return scored(miniwiki / "traces.jsonl.gz")


@pytest.fixture(scope="module")
def multihop(miniwiki: Path) -> dict[str, EvalResult]:
    return scored(miniwiki / "traces_multihop.jsonl.gz")


def test_every_recorded_reading_agrees(
    search_r1: dict[str, EvalResult], golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    got: dict[tuple[str, str, str], tuple[Any, dict[str, float]]] = {}
    for run, result in search_r1.items():
        named = ARCHIVED.fullmatch(run)
        if named is not None:
            for grade, trajectory in zip(result.grades, result.trajectories, strict=True):
                key = (grade.dataset, f"{named[1]}-{named[2]}", grade.question_id)
                got[key] = (trajectory, grade.values)
    want = {reading["trace_id"]: reading for reading in golden("real_traces.jsonl.gz")}
    assert len(got) == len(want)
    for (dataset, run, question), (trajectory, values) in got.items():
        reading = want[f"{dataset}/{run}/{question}"]
        assert trajectory.answer == reading["extracted_answer"], reading["trace_id"]
        assert values["format_valid"] == reading["valid"], reading["trace_id"]
        for name in ("em", "cem", "f1"):
            assert same_number(values[name], reading[name]), (reading["trace_id"], name)
        invalid = trajectory.response.count("My previous action is invalid.")
        if invalid == 0:  # the reference counts the tags in that message as a search
            assert values["searches"] == reading["n_search"], reading["trace_id"]


def test_means_are_those_of_the_recorded_readings(
    search_r1: dict[str, EvalResult], golden: Callable[[str], Any], same_number: Callable[[float, float], bool]
) -> None:
    readings = golden("real_traces.jsonl.gz")
    for run, result in search_r1.items():
        named = ARCHIVED.fullmatch(run)
        for summary in result.summaries if named else ():
            assert named is not None
            prefix = f"{summary.name}/{named[1]}-{named[2]}/"
            of_run = [reading for reading in readings if reading["trace_id"].startswith(prefix)]
            assert summary.num_questions == len(of_run)
            for name in ("em", "cem", "f1"):
                mean = sum(reading[name] for reading in of_run) / len(of_run)
                assert same_number(summary.estimates[name].mean, mean), (run, name)


def test_all_runs_of_both_files_are_scored(search_r1: dict[str, EvalResult], multihop: dict[str, EvalResult]) -> None:
    assert sum(len(result.grades) for result in search_r1.values()) == 6625
    assert sum(len(result.grades) for result in multihop.values()) == 595
    for result in (*search_r1.values(), *multihop.values()):
        assert "tokens" not in result.overall.estimates, "text alone does not say how many tokens were written"


def test_rollouts_in_other_formats_are_read_as_their_sources_read_them(multihop: dict[str, EvalResult]) -> None:
    """R1-Searcher's were kept because a judge found them right; those of the GRPO log nearly all earned nothing."""
    searcher = {run: result for run, result in multihop.items() if run.startswith("r1-searcher/")}
    log = {run: result for run, result in multihop.items() if run.startswith("grpo-log/")}
    answered = [grade.values["answered"] for result in searcher.values() for grade in result.grades]
    assert sum(answered) == len(answered) == 455
    assert all(result.overall.estimates["f1"].mean > 0.8 for result in searcher.values())
    assert all(grade.values["searches"] >= 1 for result in searcher.values() for grade in result.grades)
    assert all(result.overall.num_questions == 4 for result in log.values())
    assert Counter(len(result.grades) for result in log.values()) == {20: 7}
    assert sum(grade.values["em"] for result in log.values() for grade in result.grades) == 0
