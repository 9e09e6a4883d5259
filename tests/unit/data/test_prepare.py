"""Preparation of question files: read, checked, de-duplicated, drawn, mixed, written, reported."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from calibadv.data.prepare import DATASETS, LocalSource, PrepareConfig, SplitReport, open_source, prepare
from calibadv.data.prepare.datasets import COUNTS
from calibadv.data.questions import load_questions
from calibadv.errors import ConfigError, DataError

parquet = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def rows(name: str, number: int, *, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + number)
    texts = {i: f"{name} question {i}?" for i in numbers}
    return [
        {"id": f"{name}_{i}", "question": texts[i], "golden_answers": [f"answer {i}"], "metadata": {"n": i}}
        for i in numbers
    ]


def write(path: Path, records: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
        return path
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "nq" / "train.jsonl", rows("nq-train", 60))
    write(tmp_path / "in" / "nq" / "test.jsonl", rows("nq-test", 10))
    write(tmp_path / "in" / "hotpotqa.train.jsonl.gz", rows("hotpot-train", 30))
    write(tmp_path / "in" / "hotpotqa" / "dev.parquet", rows("hotpot-dev", 5))
    write(tmp_path / "in" / "bamboogle.jsonl", rows("bamboogle", 4))
    write(tmp_path / "in" / "corpus.jsonl", [{"id": "1", "contents": "x"}])
    return tmp_path / "in"


def make(folder: Path, out: Path, **options: Any) -> list[SplitReport]:
    options = {"datasets": ("nq", "hotpotqa"), "splits": ("test",)} | options
    return prepare(open_source(folder), out=out, options=PrepareConfig(**options))


def test_both_layouts_and_all_kinds_of_file_are_read(folder: Path, tmp_path: Path) -> None:
    (report,) = make(folder, tmp_path / "out", datasets=("nq", "hotpotqa", "bamboogle"))
    assert [(d.name, d.split_read, d.rows) for d in report.datasets] == [
        ("nq", "test", 10),
        ("hotpotqa", "dev", 5),
        ("bamboogle", "whole", 4),
    ]
    questions = load_questions(tmp_path / "out" / "test.parquet")
    assert [q.dataset for q in questions] == ["nq"] * 10 + ["hotpotqa"] * 5 + ["bamboogle"] * 4
    assert questions[0].id == "nq-test_0"
    assert questions[0].golden_answers == ("answer 0",)
    assert questions[0].metadata == {"n": 0}


def test_the_columns_are_those_that_search_r1_and_verl_read(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out", prefix="searchR1_")
    table = parquet.read_table(tmp_path / "out" / "test.parquet")
    assert table.column_names == [
        "data_source", "prompt", "ability", "reward_model", "extra_info", "id", "question", "golden_answers", "metadata"
    ]  # fmt: skip
    first, *_, last = table.to_pylist()
    assert first["data_source"] == "searchR1_nq"
    assert first["reward_model"] == {"style": "rule", "ground_truth": {"target": ["answer 0"]}}
    assert [message["role"] for message in first["prompt"]] == ["user"]
    assert "nq-test question 0?" in first["prompt"][0]["content"]
    assert "<search>" in first["prompt"][0]["content"]
    assert (first["extra_info"]["index"], last["extra_info"]["index"]) == (0, 14)
    assert first["extra_info"]["split"] == "test"
    assert {q.dataset for q in load_questions(tmp_path / "out" / "test.parquet")} == {"nq", "hotpotqa"}


def test_files_of_search_r1_and_verl_without_our_columns_are_read(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "test.parquet")
    theirs = table.select(["data_source", "prompt", "ability", "reward_model", "extra_info"])
    parquet.write_table(theirs, tmp_path / "theirs.parquet")
    questions = load_questions(tmp_path / "theirs.parquet")
    assert questions[0].id == "test_0"
    assert (questions[3].text, questions[3].golden_answers) == ("nq-test question 3?", ("answer 3",))


def test_training_questions_of_any_test_are_left_out_and_reported(folder: Path, tmp_path: Path) -> None:
    leaked = rows("nq-train", 58)
    leaked[3]["question"] = "The hotpot-dev QUESTION 2"
    leaked[4]["question"] = "bamboogle question 1"
    leaked[5]["question"] = leaked[6]["question"]
    leaked[7]["id"] = "nq-test_0"
    write(folder / "nq" / "train.jsonl", leaked)
    (report,) = make(folder, tmp_path / "out", splits=("train",))
    nq, hotpotqa = report.datasets
    assert nq.removed == {
        "same text as a test question": 2,
        "repeated": 1,
        "same id as a test question": 1,
    }
    assert (nq.kept, hotpotqa.kept, report.rows) == (54, 30, 84)
    assert report.compared_with == ["nq (10)", "hotpotqa (5)", "bamboogle (4)"]
    assert {example.other for example in report.examples} >= {"hotpotqa/hotpot-dev_2", "bamboogle/bamboogle_1"}
    written = json.loads((tmp_path / "out" / "train.report.json").read_text())
    assert written["datasets"][0]["removed"] == nq.removed
    (alone,) = make(folder, tmp_path / "alone", splits=("train",), against=())
    assert alone.datasets[0].removed == {"repeated": 1}


def test_a_train_and_a_test_made_together_are_apart(folder: Path, tmp_path: Path) -> None:
    write(folder / "nq" / "train.jsonl", rows("nq-test", 12))
    test, train = make(folder, tmp_path / "out", datasets=("nq",), splits=("train", "test"), against=())
    assert (test.split, test.rows) == ("test", 10)
    assert (train.split, train.rows) == ("train", 2)


def test_limits_and_mixtures_are_seeded(folder: Path, tmp_path: Path) -> None:
    one, two, three = (
        make(folder, tmp_path / name, splits=("train",), limit=24, mix={"nq": 3.0, "hotpotqa": 1.0}, seed=seed)[0]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert [d.kept for d in one.datasets] == [18, 6]
    read = {name: [q.id for q in load_questions(tmp_path / name / "train.parquet")] for name in "abc"}
    assert read["a"] == read["b"] != read["c"]
    assert one.datasets[0].sha256 == two.datasets[0].sha256 == three.datasets[0].sha256
    assert read["a"] != sorted(read["a"]), "a training split is shuffled"
    (largest,) = make(folder, tmp_path / "d", splits=("train",), mix={"nq": 1.0, "hotpotqa": 1.0})
    assert [d.kept for d in largest.datasets] == [30, 30]
    with pytest.raises(ConfigError, match=r"--mix: hotpotqa has 30 questions, but its share of --limit 80 is 40"):
        make(folder, tmp_path / "e", splits=("train",), limit=80, mix={"nq": 1.0, "hotpotqa": 1.0})


def test_row_counts_are_compared_with_the_published_ones(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (report,) = make(folder, tmp_path / "out")
    assert "nq (test) has 10 rows, published are 3,610" in caplog.text
    assert "hotpotqa (dev) has 5 rows, published are 7,405" in report.warnings[1]

    class Published(LocalSource):
        is_published = True

    options = PrepareConfig(datasets=("nq", "hotpotqa"), splits=("test",))
    with pytest.raises(DataError, match=r"published are 3,610.*--allow-count-mismatch"):
        prepare(Published(folder), out=tmp_path / "strict", options=options)
    assert not (tmp_path / "strict").exists()
    make(folder, tmp_path / "lenient", allow_count_mismatch=True)


def test_the_seven_test_sets_are_counted_as_the_benchmarks_publish_them() -> None:
    tests = {name: counts.get("test", counts.get("dev")) for name, counts in COUNTS.items()}
    assert tests == {
        "nq": 3610,
        "triviaqa": 11313,
        "popqa": 14267,
        "hotpotqa": 7405,
        "2wikimultihopqa": 12576,
        "musique": 2417,
        "bamboogle": 125,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ("nq", "nq")}, "--datasets names nq twice"),
        ({"datasets": ()}, "--datasets is empty"),
        ({"datasets": ("../nq",)}, "is not the name of a data set"),
        ({"datasets": ("nqq",)}, "has no data set nqq; did you mean nq\\?; its data sets are bamboogle, hotpotqa, nq"),
        ({"datasets": ("bamboogle",), "splits": ("train",)}, "has no train split of bamboogle; it has whole"),
        ({"splits": ("validation",)}, "--split must name some of train, dev, test"),
        ({"limit": 0}, "--limit must be >= 1, got 0"),
        ({"prompt": "x"}, "--prompt must be one of"),
        ({"against": ("popqa",), "splits": ("train",)}, "has no data set popqa"),
    ],
)
def test_bad_settings_are_named(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        make(folder, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"id": "x", "question": "q"}, "no golden_answers in this row; it has id, question"),
        ({"text": "q"}, "no id, question, golden_answers in this row; it has text"),
        ({"id": "x", "question": " ", "golden_answers": ["a"]}, "question must be text that is not empty"),
        ({"id": "x", "question": 7, "golden_answers": ["a"]}, "question must be text that is not empty, got 7"),
        ({"id": "x", "question": "q", "golden_answers": []}, "golden_answers must hold at least one answer"),
        ({"id": "x", "question": "q", "golden_answers": [1]}, "golden answers must be text"),
        ({"id": "x", "question": "q", "golden_answers": ["a"], "metadata": "{"}, "metadata is text but not JSON"),
        ({"id": "nq-test_0", "question": "q", "golden_answers": ["a"]}, "id 'nq-test_0' was already used in line 1"),
    ],
)
def test_a_bad_row_is_named_or_skipped(folder: Path, tmp_path: Path, bad: str, message: str) -> None:
    write(folder / "nq" / "test.jsonl", [*rows("nq-test", 2), bad])
    with pytest.raises(DataError, match=rf"test\.jsonl:3: .*{message}.*--skip-bad"):
        make(folder, tmp_path / "out", datasets=("nq",))
    assert not (tmp_path / "out").exists()
    (report,) = make(folder, tmp_path / "out", datasets=("nq",), skip_bad=True)
    assert (report.rows, len(report.datasets[0].bad), report.datasets[0].rows) == (2, 1, 3)


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "hotpotqa" / "dev.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"dev\.parquet: not a parquet file"):
        make(folder, tmp_path / "out", datasets=("hotpotqa",))
    write(folder / "hotpotqa" / "dev.parquet", [{"question": "q?", "answer": "a"}])
    with pytest.raises(DataError, match=r"dev\.parquet:1: no id, golden_answers in this row; it has question, answer"):
        make(folder, tmp_path / "out", datasets=("hotpotqa",))


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no such folder; name a folder of question files, or "hub"'):
        open_source(tmp_path / "absent")
    with pytest.raises(ConfigError, match="--revision abc is for --source hub"):
        open_source(tmp_path, revision="abc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it holds no question files at all"):
        make(tmp_path / "empty", tmp_path / "out")


def test_an_earlier_preparation_is_not_overwritten_by_chance(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already; name another folder with --out, or --overwrite"):
        make(folder, tmp_path / "out")
    make(folder, tmp_path / "out", overwrite=True)
    make(folder, tmp_path / "out", splits=("train",))


def test_a_full_disk_leaves_no_half_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match=r"out/test\.parquet was not written: .*No space left"):
        make(folder, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_miniwiki_is_prepared_whole(miniwiki: Path, tmp_path: Path) -> None:
    test, train = make(miniwiki, tmp_path / "out", datasets=DATASETS[:6], splits=("train", "test"), keep_metadata=False)
    assert (test.rows, train.rows + sum(sum(d.removed.values()) for d in train.datasets)) == (1114, 4454)
    asked = {q.text for q in load_questions(tmp_path / "out" / "test.parquet")}
    assert not [q for q in load_questions(tmp_path / "out" / "train.parquet") if q.text in asked]


def test_a_dev_split_made_in_the_same_call_does_not_stand_in_for_the_test(folder: Path, tmp_path: Path) -> None:
    write(folder / "nq" / "dev.jsonl", rows("nq-dev", 3))
    write(folder / "nq" / "train.jsonl", [*rows("nq-train", 5), {**rows("nq-test", 1)[0], "id": "other"}])
    _, report = make(folder, tmp_path / "out", datasets=("nq",), splits=("dev", "train"))
    assert report.compared_with == ["nq (3)", "nq (10)", "hotpotqa (5)", "bamboogle (4)"]
    assert report.rows == 5


def test_a_test_that_was_read_already_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    *_, report = make(folder, tmp_path / "out", splits=("test", "train"), against=("nq", "hotpotqa"))
    assert report.compared_with == ["nq (10)", "hotpotqa (5)"]


def test_a_data_set_of_ones_own_is_compared_with_its_own_test(folder: Path, tmp_path: Path) -> None:
    write(folder / "mine.train.jsonl", rows("mine", 5))
    write(folder / "mine.test.jsonl", rows("mine", 2, start=3))
    (report,) = make(folder, tmp_path / "out", datasets=("mine",), splits=("train",))
    assert "mine (2)" in report.compared_with
    assert report.rows == 3


def test_every_unusable_row_is_counted(folder: Path, tmp_path: Path) -> None:
    write(folder / "nq" / "test.jsonl", [*rows("nq-test", 2), *({**row, "question": ""} for row in rows("bad", 50))])
    (report,) = make(folder, tmp_path / "out", datasets=("nq",), skip_bad=True)
    assert (report.datasets[0].rows, report.datasets[0].unusable, report.rows) == (52, 50, 2)
    assert len(report.datasets[0].bad) < 50


def test_half_a_character_in_the_metadata_does_not_stop_the_writing(folder: Path, tmp_path: Path) -> None:
    write(folder / "nq" / "test.jsonl", [{**rows("nq-test", 1)[0], "metadata": {"note": "\ud83d"}}])
    make(folder, tmp_path / "out", datasets=("nq",))
    assert load_questions(tmp_path / "out" / "test.parquet")[0].metadata == {"note": "\ud83d"}


def test_nothing_is_written_when_a_data_set_lacks_one_of_the_splits(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train split of bamboogle.*command of its own, without bamboogle"):
        make(folder, tmp_path / "out", datasets=("nq", "bamboogle"), splits=("train", "test"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_when_a_later_split_has_a_bad_row(folder: Path, tmp_path: Path) -> None:
    write(folder / "nq" / "train.jsonl", [*rows("nq-train", 3), {"id": "x", "question": "q?"}])
    with pytest.raises(DataError, match="golden_answers"):
        make(folder, tmp_path / "out", datasets=("nq",), splits=("train", "test"))
    assert not (tmp_path / "out").exists()
