"""Importing: every kind of source, every kind of broken row, and a folder that is either whole or not there."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.importing import ImportConfig, import_corpus
from calibadv.retrieval.corpus.importing import jsonl as json_lines_module
from calibadv.retrieval.corpus.importing import text_files as text_files_module
from calibadv.retrieval.corpus.importing.chunking import passages
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.trajectory import Document

ADA = {"id": "1", "title": "Ada", "text": "Ada wrote programs."}
BABBAGE = {"id": "2", "title": "Babbage", "text": "Babbage built engines."}


def lines(*rows: Any) -> Any:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def write(path: Any, content: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def parts(document: Any) -> Any:
    return document.id, document.title, document.text


def imported(tmp_path: Path, *sources: Any, **options: Any) -> Any:
    """The report and the documents of an import."""
    out = tmp_path / "imported"
    report = import_corpus(sources, out=out, config=ImportConfig(**options))
    corpus = Corpus.open(out)
    corpus.verify()
    assert report.num_documents == len(corpus)
    assert report.sha256 == corpus.sha256 == Corpus.from_documents(list(corpus)).sha256
    assert json.loads(json.dumps(corpus.manifest.report)) == json.loads(json.dumps(report.to_record()))  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    return report, [parts(document) for document in corpus]


# Forms


def test_wiki_form_and_title_form_give_the_same_documents(tmp_path: Path) -> None:
    wiki = write(tmp_path / "wiki.jsonl", lines({"id": 1, "contents": '"Ada"\nAda wrote programs.'}))
    plain = write(tmp_path / "plain.jsonl", lines(BABBAGE))
    report, documents = imported(tmp_path, wiki, plain)
    assert documents == [("1", "Ada", "Ada wrote programs."), ("2", "Babbage", "Babbage built engines.")]
    assert report.num_left_out == 0
    assert report.num_files == 2


def test_gzip_plain_and_parquet_sources_give_one_digest(tmp_path: Path) -> None:
    rows = [{"id": str(i), "title": f"T{i}", "text": f"text {i} ☃"} for i in range(600)]
    sources = [write(tmp_path / "a.jsonl", lines(*rows)), write(tmp_path / "a.jsonl.gz", lines(*rows))]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=250)
    sources.append(tmp_path / "a.parquet")
    digests = {import_corpus([source], out=tmp_path / f"out-{n}").sha256 for n, source in enumerate(map(str, sources))}
    assert digests == {read_corpus(sources[0]).sha256}


def test_fields_of_other_names_are_mapped(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"key": 7, "headline": None, "body": "text", "contents": "unused"}))
    _, documents = imported(tmp_path, source, id_field="key", title_field="headline", text_field="body")
    assert documents == [("7", "", "text")]


def test_contents_of_another_name_are_split(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"id": "7", "passage": '"Title"\ntext\nmore', "text": "unused"}))
    _, documents = imported(tmp_path, source, contents_field="passage")
    assert documents == [("7", "Title", "text\nmore")]


def test_a_field_that_was_named_must_be_there(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, {**ADA, "id": "2", "headline": "x"}))
    report, documents = imported(tmp_path, source, title_field="headline")
    assert [document[:2] for document in documents] == [("2", "x")]
    assert "no field \"headline\"; got the fields ['id', 'text', 'title']" in report.left_out[0].message


def test_rows_without_ids_are_numbered_and_the_report_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"text": "a"}, {"text": " "}, {"text": "b"}, {"id": "x", "text": "c"}))
    report, documents = imported(tmp_path, source)
    assert [document[0] for document in documents] == ["0", "1"]
    assert report.counts == {"broken": 1, "not_utf8": 0, "duplicate": 0, "empty": 1}
    assert "numbered from 0" in report.notes[0]
    assert "the first row had none" in report.left_out[1].message


def test_a_first_row_without_a_text_decides_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"about": "this file"}, ADA))
    report, documents = imported(tmp_path, source)
    assert [document[0] for document in documents] == ["1"]
    assert report.counts["broken"] == 1
    assert not report.notes


def test_an_id_missing_later_is_a_broken_row(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, {"text": "b"}))
    report, _ = imported(tmp_path, source)
    assert report.counts["broken"] == 1
    assert not report.notes


def test_an_id_field_that_was_named_is_never_made_up(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"text": "a"}))
    with pytest.raises(
        DataError, match=r"no documents .*no field \"key\"; got the fields \['text'\]; name .*--id-field"
    ):
        import_corpus([source], out=tmp_path / "out", config=ImportConfig(id_field="key"))


def test_a_text_of_another_name_is_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"key": "1", "body": "a"}))
    with pytest.raises(DataError, match=r"got the fields \['body', 'key'\]; name yours with --text-field"):
        import_corpus([source], out=tmp_path / "out")


# Rows that cannot be used

BAD = [
    (b"{broken", "broken", "not JSON"),
    (b"[1, 2]", "broken", "expected an object, got list"),
    (b"[" * 100_000, "broken", "not usable JSON"),
    (b'{"id": ' + b"9" * 5000 + b', "text": "x"}', "broken", "not usable JSON"),
    (b'{"id": true, "text": "b"}', "broken", '"id" must be a string'),
    (b'{"id": "", "text": "b"}', "broken", "empty id"),
    (b'{"id": "9"}', "broken", 'neither "contents" nor "text"'),
    (b'{"id": "9", "text": 5}', "broken", '"text" must be a string, got int'),
    (b'{"id": "9", "text": "\xff"}', "not_utf8", "not UTF-8"),
    (b'{"id": "9", "text": "\\ud800"}', "not_utf8", "half a surrogate pair"),
    (b'{"id": "1", "text": "b"}', "duplicate", "duplicate id '1'"),
    (b'{"id": 1, "text": "b"}', "duplicate", "duplicate id '1'"),
    (b'{"id": "9", "text": " \\n"}', "empty", "empty document"),
    (b'{"id": "9", "contents": "\\"Title\\"\\n"}', "empty", "empty document"),
]


@pytest.mark.parametrize(("row", "kind", "message"), BAD)
def test_a_bad_row_is_left_out_counted_and_named(tmp_path: Path, row: Any, kind: str, message: str) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, row, BABBAGE))
    report, documents = imported(tmp_path, source)
    assert [document[0] for document in documents] == ["1", "2"]
    assert {name: count for name, count in report.counts.items() if count} == {kind: 1}
    (left,) = report.left_out
    assert left.where == f"{source}:2"
    assert message in left.message
    assert report.num_rows == 3


@pytest.mark.parametrize(("row", "kind", "message"), BAD)
def test_strict_refuses_the_first_bad_row_and_leaves_no_folder(
    tmp_path: Path, row: Any, kind: str, message: str
) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, row, BABBAGE, b"{also broken"))
    with pytest.raises(DataError) as error:
        import_corpus([source], out=tmp_path / "out", config=ImportConfig(strict=True))
    assert f"{source}:2: " in str(error.value)
    assert message in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_strict_names_the_first_flaw_even_when_it_is_found_later(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, ADA, b"{broken"))
    with pytest.raises(DataError, match=r"a.jsonl:2: duplicate id"):
        import_corpus([source], out=tmp_path / "out", config=ImportConfig(strict=True))


def test_only_the_first_rows_of_a_kind_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA, *[b"{"] * 50, *[ADA] * 30))
    report, _ = imported(tmp_path, source)
    assert report.counts["broken"] == 50
    assert report.counts["duplicate"] == 30
    assert [row.where for row in report.left_out if row.kind == "broken"] == [f"{source}:{n}" for n in range(2, 22)]


def test_nothing_but_bad_rows_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(b"{", b"["))
    with pytest.raises(DataError, match=r"no documents \(2 rows read, all left out; the first: .*a.jsonl:1: not JSON"):
        import_corpus([source], out=tmp_path / "out")
    with pytest.raises(DataError, match="no documents; the source is empty"):
        import_corpus([write(tmp_path / "b.jsonl", b"")], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines_module, "MAX_BYTES", 1000)
    source = write(tmp_path / "a.jsonl.gz", lines(ADA, b"x" * 5000, BABBAGE, b"y" * 1001, b"z" * 1000))
    report, documents = imported(tmp_path, source)
    assert [document[0] for document in documents] == ["1", "2"]
    assert [row.where.rpartition(":")[2] for row in report.left_out] == ["2", "4", "5"]
    assert "longer than" in report.left_out[0].message


@pytest.mark.parametrize("strict", [False, True])
def test_a_gzip_file_that_breaks_off_is_always_refused_with_the_line(tmp_path: Path, strict: Any) -> None:
    rows = [{"id": str(i), "text": os.urandom(100).hex()} for i in range(3000)]
    whole = gzip.compress(lines(*rows))
    for number, content in enumerate((whole[: len(whole) // 2], whole[:-4], whole[:-20] + bytes(20), b"no gzip")):
        source = tmp_path / f"{number}.jsonl.gz"
        source.write_bytes(content)
        with pytest.raises(DataError, match=r"\.jsonl\.gz:\d+: cannot be read.* fetch or write it again"):
            import_corpus([source], out=tmp_path / "out", config=ImportConfig(strict=strict))
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_value_that_cannot_be_read_is_a_broken_row(tmp_path: Path) -> None:
    times = pa.array([2**53, None], pa.timestamp("s"))
    parquet.write_table(pa.table({"id": times, "text": ["one", "two"]}), tmp_path / "times.parquet")
    with pytest.raises(DataError, match=r"2 rows read, all left out; the first: .*:1: a value cannot be read"):
        import_corpus([tmp_path / "times.parquet"], out=tmp_path / "corpus")


def test_a_parquet_file_with_damaged_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": ["1"], "text": ["one"]}), path)
    path.write_bytes(path.read_bytes().replace(b"text", b"te\xfft"))
    with pytest.raises(DataError, match=r"a.parquet"):
        import_corpus([path], out=tmp_path / "corpus")


def test_a_parquet_file_that_breaks_off_is_refused(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": os.urandom(200).hex()} for i in range(3000)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=500)
    whole = (tmp_path / "a.parquet").read_bytes()
    middle = len(whole) // 2
    for content in (whole[:middle], b"no parquet", whole[:middle] + bytes(2000) + whole[middle + 2000 :]):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a.parquet:\d+: not a whole parquet file"):
            import_corpus([tmp_path / "a.parquet"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parquet_text_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    binary = pa.array([b"fine", b"\xff\xfe", b"fine, too"], pa.binary())
    table = pa.table({"id": ["1", "2", "3"], "text": binary.cast(pa.string(), safe=False)})
    parquet.write_table(table, tmp_path / "a.parquet")
    report, documents = imported(tmp_path, tmp_path / "a.parquet")
    assert [document[0] for document in documents] == ["1", "3"]
    assert report.left_out[0].where.endswith("a.parquet:2")


def test_parquet_columns_that_nobody_asks_for_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"id": [5], "text": ["t"], "title": ["T"], "embedding": [[1.0] * 10]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert imported(tmp_path, tmp_path / "a.parquet")[1] == [("5", "T", "t")]
    parquet.write_table(table.select(["embedding"]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"none of its columns \['embedding'\] .*--text-field"):
        import_corpus([tmp_path / "b.parquet"], out=tmp_path / "out")


# Duplicates


def test_duplicates_are_found_across_files_and_kinds_of_ids(tmp_path: Path) -> None:
    numbers = [{"id": str(i), "text": f"n{i}"} for i in range(3000)]
    names = [{"id": f"name-{i}", "text": f"x{i}"} for i in range(3000)]
    first = write(tmp_path / "a.jsonl", lines(*numbers[:2000], numbers[5], *names[:500], *numbers[2000:]))
    second = write(tmp_path / "b.jsonl.gz", lines(*names, *numbers[-3:], {"id": "2000 ", "text": "new"}))
    report, documents = imported(tmp_path, first, second)
    assert report.counts["duplicate"] == 1 + 500 + 3
    assert len(documents) == len({document[0] for document in documents}) == 6001


@given(st.lists(st.one_of(st.integers(0, 40).map(str), st.text("ab#0", min_size=1, max_size=3)), min_size=1))
def test_the_first_row_of_an_id_is_kept_whatever_the_ids_are(
    tmp_path_factory: pytest.TempPathFactory, ids: Any
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    source = write(folder / "a.jsonl", lines(*({"id": one, "text": f"row {n}"} for n, one in enumerate(ids))))
    expected: dict[Any, Any] = {}
    for number, one in enumerate(ids):
        expected.setdefault(one, f"row {number}")
    _, documents = imported(folder, source)
    assert [(document_id, text) for document_id, _, text in documents] == list(expected.items())


def test_runs_of_hashes_on_disk_find_the_same_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibadv.retrieval.corpus.importing.hash_runs.MAX_IN_MEMORY", 512)
    rows = [{"id": f"name-{i}", "text": f"x{i}"} for i in range(5000)]
    source = write(tmp_path / "a.jsonl", lines(*rows, *rows[::7]))
    report, documents = imported(tmp_path, source)
    assert len(documents) == 5000
    assert report.counts["duplicate"] == len(rows[::7])
    assert sorted(path.name for path in (tmp_path / "imported").iterdir()) == [
        "corpus.json",
        "documents.arrow",
        "ids.bin",
    ]


# Passages


def test_passages_overlap_and_keep_title_and_spacing(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"id": "a", "title": "T", "text": " one two\n\nthree four five "}, ADA))
    _, documents = imported(tmp_path, source, chunk_words=3, chunk_overlap=1)
    assert documents == [
        ("a#0", "T", "one two\n\nthree"),
        ("a#1", "T", "three four five"),
        ("1#0", "Ada", "Ada wrote programs."),
    ]


def test_a_duplicate_document_gives_no_passages(tmp_path: Path) -> None:
    longer = {"id": "a", "text": "seven words of text are here now"}
    source = write(tmp_path / "a.jsonl", lines({"id": "a", "text": "one two"}, longer, {"id": "a#0", "text": "x"}))
    report, documents = imported(tmp_path, source, chunk_words=2)
    assert [document[0] for document in documents] == ["a#0", "a#0#0"]
    assert report.counts["duplicate"] == 1
    assert report.num_rows == 3


def test_numbered_documents_give_numbered_passages(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines({"text": "one two"}, {"text": "three"}, {"text": "four five"}))
    _, documents = imported(tmp_path, source, chunk_words=1)
    assert [document[0] for document in documents] == ["0#0", "0#1", "1#0", "2#0", "2#1"]


@given(st.lists(st.text("ab \n", max_size=5)).map(" ".join), st.integers(1, 6), st.data())
def test_passages_cover_every_word_once_but_for_the_overlap(text: str, words: Any, data: Any) -> None:
    overlap = data.draw(st.integers(0, words - 1))
    cut = list(passages(Document(id="d", title="", text=text + "x"), words=words, overlap=overlap))
    found: list[Any] = []
    for number, passage in enumerate(cut):
        assert passage.id == f"d#{number}"
        own = passage.text.split()
        assert 1 <= len(own) <= words
        assert len(own) == words or number == len(cut) - 1
        assert number == 0 or found[len(found) - overlap :] == own[:overlap]
        found += own[overlap if number else 0 :]
    assert found == (text + "x").split()
    assert len(cut) == 1 or len(cut[-1].text.split()) > overlap


# Folders


def test_text_files_below_a_folder_are_documents(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    write(notes / "b.txt", b"\xef\xbb\xbfplain\r\ntext\n")
    write(notes / "a.md", b"# The *first* heading #\n\nBody.\n")
    write(notes / "sub" / "deep" / "c.md", b"Intro.\n\n```\n# no heading\n```\n## Later heading\nBody.")
    write(notes / "sub" / "d.MD", b"---\n# settings\n---\n\nSetext\n======\nBody.\n")
    write(notes / "e.md", b"no heading at all")
    write(notes / ".hidden.txt", b"hidden")
    write(notes / ".git" / "f.txt", b"hidden")
    write(notes / "picture.png", b"\x89PNG")
    write(notes / "empty.txt", b" \n")
    write(notes / "latin.txt", b"one\ntwo\nna\xefve")
    report, documents = imported(tmp_path, notes)
    assert documents == [
        ("a.md", "The *first* heading", "Body."),
        ("b.txt", "b", "plain\ntext"),
        ("e.md", "e", "no heading at all"),
        ("sub/d.MD", "Setext", "Body."),
        ("sub/deep/c.md", "Later heading", "Intro.\n\n```\n# no heading\n```\n## Later heading\nBody."),
    ]
    assert {name: count for name, count in report.counts.items() if count} == {"empty": 1, "not_utf8": 1}
    assert [row.where for row in report.left_out if row.kind == "not_utf8"] == [f"{notes / 'latin.txt'}:3"]
    assert report.notes == (f"{notes}: files of other kinds skipped: 1",)


def test_a_huge_text_file_is_a_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files_module, "MAX_BYTES", 10)
    write(tmp_path / "notes" / "a.txt", b"x" * 11)
    write(tmp_path / "notes" / "b.txt", b"x" * 10)
    report, documents = imported(tmp_path, tmp_path / "notes")
    assert [document[0] for document in documents] == ["b.txt"]
    assert "longer than" in report.left_out[0].message


def test_a_folder_with_data_files_is_read_as_a_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write(folder / "README.md", b"# About")
    write(folder / "data" / "part-1.jsonl", lines(BABBAGE))
    write(folder / "data" / "part-0.jsonl.gz", lines(ADA))
    report, documents = imported(tmp_path, folder)
    assert [document[0] for document in documents] == ["1", "2"]
    assert "files of other kinds skipped: 1" in report.notes[0]


def test_data_in_several_folders_or_forms_must_be_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "en" / "a.jsonl", lines(ADA))
    write(tmp_path / "set" / "de" / "a.jsonl", lines(ADA))
    with pytest.raises(DataError, match=r"its data lies in 2 folders \(de, en\); name one of them"):
        import_corpus([tmp_path / "set"], out=tmp_path / "out")
    write(tmp_path / "both" / "a.jsonl", lines(ADA))
    parquet.write_table(pa.Table.from_pylist([ADA]), tmp_path / "both" / "a.parquet")
    with pytest.raises(DataError, match=r"both .jsonl and .parquet files; name"):
        import_corpus([tmp_path / "both"], out=tmp_path / "out")


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    for name, message in (
        ("absent.jsonl", "no such file or folder"),
        (tmp_path / "absent", "no such file or folder"),
        ("folder/absent.jsonl", "no such file or folder"),
        (write(tmp_path / "a.csv", b"a,b"), "unknown kind of file; use .jsonl"),
    ):
        with pytest.raises(DataError, match=message):
            import_corpus([name], out=tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"no \.jsonl, .* files there"):
        import_corpus([tmp_path / "nothing"], out=tmp_path / "out")
    with pytest.raises(DataError, match="nothing to import"):
        import_corpus([], out=tmp_path / "out")


# All or nothing


def test_a_folder_that_holds_something_is_never_touched(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", lines(ADA))
    out = tmp_path / "out"
    out.mkdir()
    import_corpus([source], out=out)  # an empty one is fine
    before = (out / "corpus.json").read_bytes()
    for target in (out, source):
        with pytest.raises(ConfigError, match=r"exists and is not empty; name a new folder .*--out"):
            import_corpus([source], out=target)
    assert (out / "corpus.json").read_bytes() == before
    with pytest.raises(DataError, match="a corpus already; name what it was made from"):
        import_corpus([out], out=tmp_path / "other")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_import_leaves_no_corpus(tmp_path: Path, kill: Any) -> None:
    write(tmp_path / "a.jsonl", lines(*({"id": f"n{i}", "text": "x" * 50} for i in range(50_000))))
    code = """
import signal, sys, time
from calibadv.retrieval.corpus.importing import import_corpus
signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job ignores it
def progress(done, total):
    if done > total / 2:
        print("half", flush=True)
        while True:  # a signal just before a call that sleeps is seen when the call returns
            time.sleep(0.05)
import_corpus([sys.argv[1]], out=sys.argv[2], progress=progress)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "half\n"  # type: ignore[union-attr]
        process.send_signal(kill)
        process.wait(timeout=20)
    left = [path for path in tmp_path.iterdir() if path.name != "a.jsonl"]
    if kill is signal.SIGINT:
        assert left == []
    for path in left:
        with pytest.raises(DataError, match="not a corpus"):
            Corpus.open(path)
    assert not (tmp_path / "out").exists()
    import_corpus([tmp_path / "a.jsonl"], out=tmp_path / "out")
    assert len(Corpus.open(tmp_path / "out")) == 50_000


def test_progress_reaches_the_end_and_never_goes_back(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": os.urandom(50).hex()} for i in range(5000)]
    sources = [write(tmp_path / "a.jsonl.gz", lines(*rows[:2500])), write(tmp_path / "b.jsonl", lines(*rows[2500:]))]
    seen = []
    import_corpus(sources, out=tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    size = sum(source.stat().st_size for source in sources)
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
    assert len(seen) >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_words": 0}, "chunk_words must be >= 1, got 0"),
        (
            {"chunk_words": 10, "chunk_overlap": 10},
            r"chunk_overlap must be < chunk_words \(10\), got 10",
        ),
        ({"chunk_words": 10, "chunk_overlap": -1}, "got -1"),
        ({"chunk_overlap": 3}, "chunk_overlap 3 needs chunk_words"),
        ({"contents_field": "a", "text_field": "b"}, "contents_field 'a' holds title and text together"),
        ({"id_field": ""}, "id_field must not be empty"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImportConfig(**options)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """Ten times the rows, the same peak (but for the index of ids, mapped from disk)."""
    code = """
import resource, sys
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.corpus.read import read_corpus
import_corpus([sys.argv[1]], out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (6_000, 60_000):
        source = tmp_path / f"{count}.jsonl"
        with source.open("w") as file:
            for row in range(count):
                file.write(json.dumps({"id": f"doc-{row}", "text": f"{row} " * 200}) + "\n")
        command = [sys.executable, "-c", code, str(source), str(tmp_path / f"out-{count}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 30


def test_importing_real_passages_takes_seconds(tmp_path: Path, miniwiki: Any) -> None:
    start = time.process_time()
    report = import_corpus([miniwiki / "corpus.jsonl.gz"], out=tmp_path / "out")
    assert time.process_time() - start < 20
    assert report.num_documents == report.num_rows == 39_705
    assert not (tmp_path / "out" / "ids.bin").exists()
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.get("39704").id == corpus[-1].id == "39704"
    assert corpus.sha256 == read_corpus(miniwiki / "corpus.jsonl.gz").sha256


# Names, links and places that are not what they should be.


def test_names_that_are_not_utf8_can_be_reported(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/notes-\xff.jsonl")
    Path(path).write_bytes(b'{"\\ud800": 1, "text": "one"}\n{broken\n')
    report = import_corpus([path], out=tmp_path / "corpus")
    assert report.counts["broken"] == 1
    assert "notes-\\udcff.jsonl:2" in report.left_out[0].where
    manifest = Corpus.open(tmp_path / "corpus").manifest
    assert "notes-\\udcff.jsonl" in manifest.source[0]  # type: ignore[union-attr]
    assert "\\ud800" in manifest.report["notes"][0]  # type: ignore[union-attr]


def test_folders_behind_links_are_read_and_circles_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "b.txt", b"two")
    write(tmp_path / "notes" / "a.txt", b"one")
    (tmp_path / "notes" / "circle").symlink_to(tmp_path / "notes")
    (tmp_path / "notes" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "notes")
    import_corpus([tmp_path / "notes"], out=tmp_path / "corpus")
    assert [document.id for document in Corpus.open(tmp_path / "corpus")] == ["a.txt", "more/b.txt"]


@pytest.mark.parametrize("kind", ["dead", "circle", "pipe"])
def test_what_only_looks_like_a_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "notes"
    write(folder / "a.txt", b"one")
    odd = folder / "odd.txt"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(odd if kind == "circle" else folder / "nowhere")
    with pytest.raises(DataError, match=r"odd.txt: not a file that can be read"):
        import_corpus([folder], out=tmp_path / "corpus")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "notes" / "a.txt", b"one")
    write(tmp_path / "notes" / "closed" / "b.txt", b"two")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed: the folder cannot be read \(Permission denied\)"):
        import_corpus([tmp_path / "notes"], out=tmp_path / "corpus")


def test_carriage_returns_alone_end_lines_too(tmp_path: Path) -> None:
    write(tmp_path / "old.md", b"# Title\rone\rtwo")
    import_corpus([tmp_path / "old.md"], out=tmp_path / "corpus")
    assert parts(Corpus.open(tmp_path / "corpus")[0])[1:] == ("Title", "one\ntwo")


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    write(tmp_path / "big.jsonl", lines(*({"id": f"x{i}", "text": "w " * 2000} for i in range(600))))
    code = (
        "import resource, signal, sys; from calibadv.cli.main import main; signal.signal(signal.SIGXFSZ, "
        "signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)); "
        "sys.exit(main(['corpus', 'import', 'big.jsonl', '--out', 'corpus']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "corpus: the corpus does not fit there" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["big.jsonl"]


def test_of_two_imports_to_one_folder_the_slower_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"one")

    def another(done: Any, total: Any) -> None:
        if not (tmp_path / "corpus").exists():
            write(tmp_path / "corpus" / "mine.txt", b"mine")

    with pytest.raises(ConfigError, match="another process wrote it"):
        import_corpus([tmp_path / "a.txt"], out=tmp_path / "corpus", progress=another)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "corpus"]
