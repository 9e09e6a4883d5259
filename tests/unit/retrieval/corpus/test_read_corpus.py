"""Reading corpora: both forms, and every way a file can be broken."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval import Corpus, check_top_k
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.corpus.text import split_contents
from calibadv.trajectory import Document

GOOD = {"id": "1", "title": "Ada", "text": "Ada wrote programs."}


def write_lines(path: Any, *lines: Any) -> Any:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def test_both_forms_give_the_same_document(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "a.jsonl", {"id": "1", "title": "Ada", "text": "Ada wrote programs."})
    wiki = write_lines(tmp_path / "b.jsonl", {"id": 1, "contents": '"Ada"\nAda wrote programs.'})
    assert read_corpus(plain)[0] == read_corpus(wiki)[0]
    assert read_corpus(plain).sha256 == read_corpus(wiki).sha256


def test_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(GOOD) + "\n")
    assert read_corpus(path).get("1").title == "Ada"


def test_written_corpus_reads_back(tmp_path: Path) -> None:
    corpus = Corpus.from_documents([Document(id="é", title='"Q" Is', text="line\nline ☃")])
    for name in ("a.jsonl", "a.jsonl.gz"):
        corpus.write(tmp_path / name)
        assert read_corpus(tmp_path / name).sha256 == corpus.sha256


def test_title_keeps_its_own_quotes() -> None:
    assert split_contents('""Awaken, My Love!""\ntext') == ('"Awaken, My Love!"', "text")
    assert split_contents("Plain title\ntext\nmore") == ("Plain title", "text\nmore")
    assert split_contents("one line only") == ("", "one line only")
    assert split_contents('"\ntext') == ('"', "text")


def test_blank_lines_and_a_byte_order_mark_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n")
    assert len(read_corpus(path)) == 1


def test_slices_and_negative_rows_work() -> None:
    corpus = Corpus.from_documents([Document(id=str(i), title="", text="x") for i in range(3)])
    assert [d.id for d in corpus[1:]] == ["1", "2"]
    assert corpus[-1].id == "2"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{broken", "not JSON"),
        ("[1, 2]", "expected an object, got list"),
        ({"title": "a", "text": "b"}, 'no field "id"'),
        ({"id": True, "text": "b"}, '"id" must be a string'),
        ({"id": "", "text": "b"}, "empty id"),
        ({"id": "1", "text": "b"}, "duplicate id '1'"),
        ({"id": "2", "body": "b"}, 'neither "contents" nor "text"'),
        ({"id": "2", "text": ["b"]}, '"text" must be a string, got list'),
        ({"id": "2", "contents": None}, '"contents" must be a string, got NoneType'),
        ({"id": "2", "title": 5, "text": "b"}, '"title" must be a string, got int'),
        ({"id": "2", "title": "a", "text": "  "}, "empty document"),
        ({"id": "2", "contents": '"Title"\n'}, "empty document"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path, second: Any, message: str) -> None:
    path = write_lines(tmp_path / "corpus.jsonl", GOOD, second)
    with pytest.raises(DataError, match=r"corpus.jsonl:2: ") as error:
        read_corpus(path)
    assert message in str(error.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "2", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"corpus.jsonl:2: not UTF-8"):
        read_corpus(path)


def test_truncated_and_fake_gzip_are_errors(tmp_path: Path) -> None:
    good = gzip.compress((json.dumps(GOOD) + "\n").encode() * 50)
    for number, data in enumerate((good[: len(good) // 2], b"not gzip at all", good[:-20] + b"\0" * 20)):
        path = tmp_path / f"{number}.jsonl.gz"
        path.write_bytes(data)
        with pytest.raises(DataError):
            read_corpus(path)


def test_missing_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_corpus(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="no documents"):
        read_corpus(write_lines(tmp_path / "empty.jsonl"))


def test_unknown_id_is_an_error() -> None:
    with pytest.raises(DataError, match="no document with id '9'"):
        Corpus.from_documents([Document(id="1", title="", text="x")]).get("9")


def test_top_k_larger_than_the_corpus_names_both_numbers() -> None:
    check_top_k(2, num_documents=2)
    with pytest.raises(ConfigError, match=r"must be <= the number of documents in the corpus \(2\), got 3"):
        check_top_k(3, num_documents=2)
