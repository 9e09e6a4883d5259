"""QA data sets."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from calibadv.data.questions import check_questions, load_questions
from calibadv.errors import ConfigError, DataError
from calibadv.trajectory import Question


def row(id: Any = "q1", **changes: Any) -> dict[str, Any]:
    fields = {"id": id, "question": "Where?", "golden_answers": ["Oslo", "Christiania"], "metadata": {"hops": 2}}
    return fields | changes


def write(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(r) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["nq.test.jsonl", "nq.jsonl.gz", "nq.train.parquet"])
def test_rows_become_questions(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist([row("a"), row("b")]), path)
    else:
        write(path, row("a"), row("b"))
    questions = load_questions(path)
    assert [q.id for q in questions] == ["a", "b"]
    assert questions[0] == Question(id="a", text="Where?", golden_answers=("Oslo", "Christiania"), dataset="nq")
    assert questions[0].metadata == {"hops": 2}


def test_the_folder_names_the_data_set_when_the_file_only_names_the_split(tmp_path: Path) -> None:
    (tmp_path / "musique").mkdir()
    assert load_questions(write(tmp_path / "musique" / "test.jsonl", row()))[0].dataset == "musique"


def test_numbers_are_fine_as_ids_and_a_single_answer_may_be_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", row(7, golden_answers="Oslo", metadata=None, question=" Where? "))
    assert load_questions(path)[0] == Question(id="7", text="Where?", golden_answers=("Oslo",), dataset="x")


def test_blank_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + json.dumps(row("q2", question="")) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.jsonl:3: question must be text"):
        load_questions(path)


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", row("a"), row("b"), {"broken": True})
    assert [q.id for q in load_questions(path, limit=2)] == ["a", "b"]
    with pytest.raises(ConfigError, match="limit must be >= 1"):
        load_questions(path, limit=0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(question=""), "question must be text"),
        (row(question=None), "question must be text"),
        (row(golden_answers=[]), "golden_answers must hold at least one answer"),
        (row(golden_answers=None), "golden_answers must hold at least one answer"),
        (row(golden_answers=["Oslo", 5]), "golden answers must be text that is not empty, got 5"),
        (row(golden_answers=[" "]), "golden answers must be text that is not empty"),
        (row(id=None), "id must be text"),
        (row(id=True), "id must be text"),
        (row(metadata=[1]), "metadata must be an object"),
        ([1, 2], "a row must be an object"),
        (row("first"), r"id 'first' was already used in line 1"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(bad: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", row("first"), bad)
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{message}"):
        load_questions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no questions"),
        (b"\n\n", "no questions"),
        (b'{"id": \n', r"x\.jsonl:1: not valid JSON"),
        (b"\xff\xfe\n", r"x\.jsonl:1: not valid JSON .*utf-8"),
    ],
)
def test_a_file_without_questions_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_questions(tmp_path / "x.jsonl")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_questions(tmp_path / "none.jsonl")
    (tmp_path / "x.csv").write_text("a,b", encoding="utf-8")
    with pytest.raises(DataError, match="unknown kind of file"):
        load_questions(tmp_path / "x.csv")
    for name in ("x.parquet", "x.jsonl.gz"):
        (tmp_path / name).write_bytes(b"not one of these")
        with pytest.raises(DataError, match=name):
            load_questions(tmp_path / name)


def test_questions_made_in_code_are_checked() -> None:
    good = Question(id="1", text="Where?", golden_answers=("Oslo",))
    check_questions([good, Question(id="1", text="Where?", golden_answers=("Oslo",), dataset="other")])
    for bad, message in (
        ([], "no questions"),
        ([Question(id="1", text=" ", golden_answers=("x",))], r"question 0 \(id '1'\): the question is empty"),
        ([Question(id="1", text="a", golden_answers=())], "no golden answers"),
        ([good, good], r"question 1 \(id '1'\): another question"),
    ):
        with pytest.raises(DataError, match=message):
            check_questions(bad)


def test_real_question_files_can_be_read(miniwiki: Path) -> None:
    files = sorted(p for p in miniwiki.glob("*.jsonl"))
    assert files
    questions = [q for path in files for q in load_questions(path)]
    check_questions(questions)
    assert {q.dataset for q in questions} == {path.name.split(".")[0] for path in files}


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "1", "question": "q?", "golden_answers": ["a"]}\n')
    assert [q.id for q in load_questions(path)] == ["1"]


def test_damage_inside_of_a_gzip_file_is_one_clear_error(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"id": "1", "question": "q?", "golden_answers": ["a"]}\n' * 1000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[:40] + b"zzzzzz" + whole[46:])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz:1: cannot be read"):
        load_questions(path)


@pytest.mark.parametrize(
    "text",
    ['{"id": ' + "9" * 5000 + ', "question": "q", "golden_answers": ["a"]}', '{"metadata": ' + "[" * 100_000],
)
def test_json_that_cannot_be_held_is_one_clear_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "nq.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(DataError, match=r"nq\.jsonl:1: not valid JSON"):
        load_questions(path)


@pytest.mark.parametrize("changes", [{"question": "a \ud83d"}, {"golden_answers": ["\udc00"]}, {"id": "\ud800"}])
def test_half_a_character_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nq\.jsonl:1: .*half of a surrogate pair"):
        load_questions(write(tmp_path / "nq.jsonl", row(**changes)))


def test_a_list_of_answers_written_as_text_is_a_list(tmp_path: Path) -> None:
    rows = [row("a", golden_answers='["Oslo", "Christiania"]'), row("b", golden_answers="[sic]")]
    questions = load_questions(write(tmp_path / "nq.jsonl", *rows))
    assert [q.golden_answers for q in questions] == [("Oslo", "Christiania"), ("[sic]",)]


def test_columns_that_are_there_but_empty_do_not_hide_those_of_the_training_format(tmp_path: Path) -> None:
    training = {
        "reward_model": {"ground_truth": {"target": ["Oslo"]}},
        "extra_info": {"index": 3, "split": "train", "question": "Where?"},
    }
    (question,) = load_questions(
        write(tmp_path / "nq.jsonl", training | {"id": None, "question": None, "golden_answers": None})
    )
    assert question == Question(id="train_3", text="Where?", golden_answers=("Oslo",), dataset="nq")


def test_a_file_of_nothing_but_bad_rows_says_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = write(tmp_path / "nq.jsonl", row(golden_answers=[1945]), row("b", question=""))
    with pytest.raises(DataError, match=r"none of its 2 rows.*golden answers must be text"):
        load_questions(path, on_bad=lambda message: None)
