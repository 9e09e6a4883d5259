"""Trajectories to disk and back."""

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibadv.data.trajectory_files import (
    FORMAT,
    VERSION,
    Record,
    from_row,
    read_trajectories,
    to_row,
    write_trajectories,
)
from calibadv.errors import ConfigError, DataError
from calibadv.trajectory import (
    Action,
    ActionKind,
    Credit,
    Document,
    Question,
    StopReason,
    Trajectory,
    Turn,
)

ENDINGS = ("jsonl", "jsonl.gz", "parquet")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FLOAT = st.floats(allow_nan=False)
IDS = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
DOCUMENT = st.builds(Document, id=TEXT, title=TEXT, text=TEXT)
TURN = st.builds(
    Turn,
    text=TEXT,
    thinking=TEXT,
    action=st.builds(Action, st.sampled_from(ActionKind), TEXT),
    documents=st.lists(DOCUMENT, max_size=2).map(tuple),
    observation=TEXT,
    token_ids=IDS,
    logprobs=st.lists(FLOAT, max_size=4).map(tuple),
    observation_token_ids=IDS,
    truncated=st.booleans(),
)
QUESTION = st.builds(
    Question,
    id=TEXT,
    text=TEXT,
    golden_answers=st.lists(TEXT, max_size=2).map(tuple),
    dataset=TEXT,
    metadata=st.dictionaries(TEXT, JSON, max_size=2),
)
TRAJECTORY = st.builds(
    Trajectory,
    question=QUESTION,
    rollout_index=st.integers(0, 9),
    prompt=TEXT,
    prompt_token_ids=IDS,
    turns=st.lists(TURN, max_size=3).map(tuple),
    stop_reason=st.sampled_from(StopReason),
    error=st.none() | TEXT,
    think_prefill=st.booleans(),
)
FLOATS = st.lists(FLOAT, max_size=3).map(tuple)
CREDIT = st.builds(
    Credit,
    group_id=TEXT,
    reward=FLOAT,
    scores=st.dictionaries(TEXT, FLOAT, max_size=2),
    format_valid=st.booleans(),
    garbled=st.booleans(),
    correctness=st.none() | FLOATS,
    advantages=FLOATS,
    calibrated=FLOATS,
)
RECORD = st.builds(Record, trajectory=TRAJECTORY, credit=st.none() | CREDIT, step=st.none() | st.integers(1, 999))


def record(text: str = "hm", step: int | None = 1) -> Record:
    turn = Turn(text=text, action=Action(ActionKind.ANSWER, "Oslo"), token_ids=(1, 2), logprobs=(-0.1, -1 / 3))
    question = Question(id="1", text="Where?", golden_answers=("Oslo",))
    trajectory = Trajectory(question=question, prompt="Q", turns=(turn,), stop_reason=StopReason.ANSWER)
    return Record(trajectory=trajectory, step=step)


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(RECORD, max_size=3))
def test_records_come_back_as_they_were(ending: str, records: list[Record], tmp_path: Path) -> None:
    path = tmp_path / f"t.{ending}"
    assert write_trajectories(path, records) == len(records)
    again = list(read_trajectories(path))
    assert again == records
    assert [r.trajectory.question.metadata for r in again] == [r.trajectory.question.metadata for r in records]
    documents = [[(d.title, d.text) for t in r.trajectory.turns for d in t.documents] for r in records]
    assert [[(d.title, d.text) for t in r.trajectory.turns for d in t.documents] for r in again] == documents


@settings(deadline=None)
@given(RECORD)
def test_a_row_holds_everything(one: Record) -> None:
    assert from_row(to_row(one)) == one


@pytest.mark.parametrize("ending", ENDINGS)
def test_numbers_that_are_not_finite_come_back(ending: str, tmp_path: Path) -> None:
    credit = Credit(
        group_id="1",
        reward=-math.inf,
        scores={"f1": math.inf},
        format_valid=True,
        correctness=(math.nan,),
        advantages=(-0.0,),
        calibrated=(5e-324,),
    )
    write_trajectories(tmp_path / f"t.{ending}", [Record(trajectory=record().trajectory, credit=credit)])
    again = next(read_trajectories(tmp_path / f"t.{ending}")).credit
    assert again is not None
    assert again.correctness is not None
    assert math.isnan(again.correctness[0])
    assert (again.reward, again.scores["f1"], again.calibrated) == (-math.inf, math.inf, (5e-324,))
    assert math.copysign(1.0, again.advantages[0]) == -1.0


def test_half_a_surrogate_pair_survives_in_json_lines(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "t.jsonl", [record("a\ud83d")])
    assert next(read_trajectories(tmp_path / "t.jsonl")) == record("a\ud83d")


def test_the_first_line_names_format_and_version(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "t.jsonl", [record()])
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"format": FORMAT, "version": VERSION}
    assert len(lines) == 2


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_trajectories(tmp_path / name, [record()])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_appending_extends_a_file_and_starts_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "t.jsonl"
    for step in (1, 2, 3):
        write_trajectories(path, [record(step=step)], append=True)
    assert [r.step for r in read_trajectories(path)] == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_torn_last_line_is_reported_skipped_and_removed_by_the_next_append(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_trajectories(path, [record(step=1), record(step=2)])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(RuntimeWarning, match=r"t\.jsonl:3: the file ends in the middle of a record"):
        assert [r.step for r in read_trajectories(path)] == [1]
    with pytest.raises(DataError, match=r"t\.jsonl:3.*strict=False"):
        list(read_trajectories(path, strict=True))
    with pytest.warns(RuntimeWarning, match="torn by a crash"):
        write_trajectories(path, [record(step=3)], append=True)
    assert [r.step for r in read_trajectories(path, strict=True)] == [1, 3]


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"format": "calib', encoding="utf-8")
    with pytest.warns(RuntimeWarning):
        assert list(read_trajectories(path)) == []
    with pytest.warns(RuntimeWarning):
        write_trajectories(path, [record()], append=True)
    assert len(list(read_trajectories(path, strict=True))) == 1


def test_a_gzip_file_that_ends_early_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    write_trajectories(path, [record("x" * n, step=n) for n in range(1, 50)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="ends in the middle"):
        steps = [r.step for r in read_trajectories(path)]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("ending", ["jsonl.gz", "parquet"])
def test_only_json_lines_can_be_appended_to(ending: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"append needs a \.jsonl file"):
        write_trajectories(tmp_path / f"t.{ending}", [record()], append=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_while_writing_leaves_the_old_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{ending}"
    write_trajectories(path, [record("old")])

    def broken() -> Iterator[Record]:
        yield record("new")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_trajectories(path, broken())
    assert [r.trajectory.turns[0].text for r in read_trajectories(path)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"format": FORMAT, "version": 99}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="format version 99, but this calibadv reads version 1"):
        list(read_trajectories(path))
    with pytest.raises(DataError, match="format version 99"):
        write_trajectories(path, [record()], append=True)


def test_another_version_of_parquet_is_refused_by_name(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    write_trajectories(path, [record()])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"format": FORMAT, "version": "7"}), path)
    with pytest.raises(DataError, match="format version 7"):
        list(read_trajectories(path))
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DataError, match="holds no trajectories"):
        list(read_trajectories(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"{}\n", "no header"),
        (b"[1]\n", "no header"),
        (b"plain text\n", "no header"),
        (b'{"format":"calibadv.trajectories","version":1}\n{"step":1}\n', r"t\.jsonl:2: not a trajectory record"),
        (b'{"format":"calibadv.trajectories","version":1}\nnot json\n', r"t\.jsonl:2: not a trajectory record"),
        (b'{"format":"calibadv.trajectories","version":1}\n[]\n', r"t\.jsonl:2: not a trajectory record"),
    ],
)
def test_a_file_that_holds_something_else_names_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_files_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.jsonl, \.jsonl\.gz or \.parquet"):
        write_trajectories(tmp_path / "t.csv", [record()])
    with pytest.raises(DataError, match="no such file"):
        read_trajectories(tmp_path / "none.jsonl")
    for name in ("t.parquet", "t.jsonl.gz"):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(DataError, match=name):
            list(read_trajectories(tmp_path / name))


def test_metadata_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    trajectory = record().trajectory
    question = Question(id="1", text="Where?", golden_answers=("Oslo",), metadata={"when": object()})
    odd = Trajectory(question=question, prompt="", turns=trajectory.turns, stop_reason=StopReason.ANSWER)
    for ending in ENDINGS:
        with pytest.raises(DataError, match="plain JSON values"):
            write_trajectories(tmp_path / f"t.{ending}", [Record(trajectory=odd)])


def test_a_gzip_file_is_gzip(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "t.jsonl.gz", [record()])
    assert gzip.decompress((tmp_path / "t.jsonl.gz").read_bytes()).startswith(b'{"format":')
