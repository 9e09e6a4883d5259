"""The corpus on disk: the same documents as in memory, found by row and id, and every way a folder can be broken."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.errors import ConfigError, DataError
from calibadv.io import mapped_file as mapped_file_module
from calibadv.retrieval import Corpus
from calibadv.retrieval.corpus.id_index import IdIndex, hash_ids
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.corpus.importing.hash_runs import HashRuns
from calibadv.retrieval.corpus.importing.report import ImportReport
from calibadv.retrieval.corpus.importing.writer import CorpusWriter
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.retrieval.corpus.table import ROWS_PER_BATCH
from calibadv.trajectory import Document

TEXT = st.text(max_size=40)
DOCUMENTS = st.lists(
    st.builds(
        lambda document_id, title, text: Document(id=document_id, title=title, text=text + "x"),
        st.text(min_size=1, max_size=12),
        TEXT,
        TEXT,
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda document: document.id,
)


def parts(document: Any) -> Any:
    return document.id, document.title, document.text


def numbered(count: Any) -> Any:
    return [Document(id=str(i), title=f"Title {i}", text=f"text of {i}") for i in range(count)]


def named(count: Any) -> Any:
    return [Document(id=f"doc-{i}", title=f"Title {i}", text=f"text of {i}") for i in range(count)]


def write_folder(documents: Any, out: Any) -> Any:
    """A corpus folder of these documents, through an import."""
    source = out.with_name(f"{out.name}.jsonl")
    Corpus.from_documents(documents).write(source)
    import_corpus([source], out=out)
    return Corpus.open(out)


@given(DOCUMENTS)
def test_any_text_comes_back_from_disk_and_from_memory(
    tmp_path_factory: pytest.TempPathFactory, documents: Any
) -> None:
    folder = tmp_path_factory.mktemp("any") / "corpus"
    in_memory = Corpus.from_documents(documents)
    report = ImportReport(
        num_documents=len(documents), num_rows=0, num_files=0, config={}, counts={}, left_out=(), notes=(), sha256=""
    )
    with CorpusWriter(folder) as writer:
        ids = HashRuns(writer.partial, name="ids")
        ids.add(hash_ids(document.id for document in documents), 0)
        for document in documents:
            writer.add(document)
        writer.finish(ids, source=(), report=report)
    on_disk = Corpus.open(folder)
    for corpus in (in_memory, on_disk):
        assert list(map(parts, corpus)) == list(map(parts, documents))
        assert [corpus.row_of(document.id) for document in documents] == list(range(len(documents)))
        assert corpus.row_of("no such id at all") is None
    on_disk.verify()
    assert on_disk.sha256 == in_memory.sha256
    shutil.rmtree(folder)


@pytest.mark.parametrize("documents", [numbered(2 * ROWS_PER_BATCH + 3), named(2 * ROWS_PER_BATCH + 3)])
def test_rows_ids_slices_and_batches_agree_across_batch_ends(tmp_path: Path, documents: Any) -> None:
    corpus = write_folder(documents, tmp_path / "corpus")
    everything = list(map(parts, documents))
    assert len(corpus) == len(documents)
    assert [parts(corpus[row]) for row in range(len(corpus))] == everything
    assert [parts(corpus.get(document.id)) for document in documents] == everything
    assert list(map(parts, corpus[250:260])) == everything[250:260]
    assert list(map(parts, corpus[::-100])) == everything[::-100]
    assert parts(corpus[-1]) == everything[-1]
    assert [len(batch) for batch in corpus.iter_batches(200)] == [200, 200, 115]
    assert [parts(d) for batch in corpus.iter_batches(77, start=300) for d in batch] == everything[300:]


def test_take_keeps_the_order_asked_for_and_repeats(tmp_path: Path) -> None:
    corpus = write_folder(named(600), tmp_path / "corpus")
    rows = [599, 0, 3, 3, 300, -1]
    assert [document.id for document in corpus.take(rows)] == [f"doc-{row % 600}" for row in rows]
    assert corpus.take(np.array([5, 4]))[0].id == "doc-5"
    assert corpus.take([]) == []
    with pytest.raises(IndexError, match="row 600 of 600"):
        corpus.take([600])
    with pytest.raises(IndexError):
        corpus[-601]
    with pytest.raises(ConfigError, match="must be >= 1, got 0"):
        next(corpus.iter_batches(0))


def test_ids_that_are_row_numbers_need_no_index(tmp_path: Path) -> None:
    corpus = write_folder(numbered(300), tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "ids.bin").exists()
    for stranger in ("300", "-1", "007", "1.0", " 1", "１", "9" * 5000, "\ud800", ""):  # noqa: RUF001
        assert corpus.row_of(stranger) is None


def test_an_unknown_id_is_none_or_an_error_and_never_another_document(tmp_path: Path) -> None:
    corpus = write_folder(named(300), tmp_path / "corpus")
    assert corpus.row_of("doc-300") is None
    assert corpus.row_of("half \ud800 pair") is None
    with pytest.raises(DataError, match="no document with id 'doc-300'"):
        corpus.get("doc-300")


def test_ids_with_the_same_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few_bits(ids: Any) -> Any:
        return np.array([len(document_id) for document_id in ids], "<u8")

    monkeypatch.setattr("calibadv.retrieval.corpus.id_index.hash_ids", few_bits)
    monkeypatch.setattr("calibadv.retrieval.corpus.importing.seen_ids.hash_ids", few_bits)
    documents = named(300)
    source = tmp_path / "twice.jsonl"
    Corpus.from_documents(documents).write(source)
    source.write_text(source.read_text() * 2)
    report = import_corpus([source], out=tmp_path / "corpus")
    assert report.counts["duplicate"] == 300
    corpus = Corpus.open(tmp_path / "corpus")
    assert [corpus.row_of(document.id) for document in documents] == list(range(300))
    assert corpus.row_of("doc-x99") is None
    corpus.verify()


def test_hashes_bunched_in_one_place_are_still_found() -> None:
    crowded = np.concatenate([np.arange(10_000, dtype="<u8"), hash_ids(["wanted"])])
    assert IdIndex(crowded, np.arange(10_001, dtype="<u4")).candidates("wanted") == [10_000]
    assert IdIndex(crowded, np.arange(10_001, dtype="<u4")).candidates("other") == []


def test_the_digest_is_that_of_one_json_list_a_line(tmp_path: Path) -> None:
    documents = [Document(id="é", title='"Q" Is', text="line\nline ☃")]
    expected = hashlib.sha256(b'["\\u00e9", "\\"Q\\" Is", "line\\nline \\u2603"]\n').hexdigest()
    assert Corpus.from_documents(documents).sha256 == expected
    assert write_folder(documents, tmp_path / "corpus").sha256 == expected


def test_many_threads_read_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_file_module, "RESIDENT_BYTES", 1 << 16)  # views are given back all the time
    monkeypatch.setattr("calibadv.retrieval.corpus.table._CACHED_BATCHES", 2)
    corpus = write_folder(named(3000), tmp_path / "corpus")
    wrong = []

    def read(seed: Any) -> None:
        rng = np.random.default_rng(seed)
        for row in rng.integers(0, 3000, 500):
            by_id = corpus.get(f"doc-{row}")
            if parts(corpus[int(row)]) != parts(by_id) or by_id.title != f"Title {row}":
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_random_reads_of_a_large_corpus_stay_out_of_resident_memory(tmp_path: Path) -> None:
    source = tmp_path / "large.jsonl"
    with source.open("w") as file:
        for row in range(60_000):
            file.write(json.dumps({"id": f"doc-{row}", "title": f"T{row}", "text": f"{row} " * 300}) + "\n")
    import_corpus([source], out=tmp_path / "corpus")
    assert (tmp_path / "corpus" / "documents.arrow").stat().st_size > 80e6
    code = """
import random, sys
from pathlib import Path
import pyarrow, pyarrow.ipc
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.read import read_corpus

def resident():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]) / 1024

before = resident()
corpus = Corpus.open(sys.argv[1])
rng = random.Random(0)
for row in rng.sample(range(len(corpus)), 3000):
    assert corpus[row].title == f"T{row}"
    assert corpus.row_of(f"doc-{row}") == row
corpus.take(rng.sample(range(len(corpus)), 3000))
print(resident() - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "corpus")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50


def test_read_opens_a_folder(tmp_path: Path) -> None:
    corpus = write_folder(named(3), tmp_path / "corpus")
    assert read_corpus(tmp_path / "corpus").sha256 == corpus.sha256
    assert corpus.path == tmp_path / "corpus"
    assert Corpus.from_documents(named(3)).path is None


# Broken folders


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    write_folder(named(1000), tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.mark.parametrize("name", ["documents.arrow", "ids.bin"])
def test_a_file_that_was_cut_off_is_refused_with_both_sizes(folder: Any, name: str) -> None:
    content = (folder / name).read_bytes()
    for size in (len(content) // 2, len(content) - 1, 0):
        (folder / name).write_bytes(content[:size])
        with pytest.raises(DataError, match=rf"{name}: {size:,} bytes instead of .*fetch it again"):
            Corpus.open(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing"):
        Corpus.open(folder)


def test_other_folders_are_not_corpora(folder: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus.json, so this is not a corpus; make one: calibadv corpus import"):
        Corpus.open(tmp_path / "absent")
    for content, message in (
        ("{", "cannot be read"),
        ("[1]", "must hold a JSON object"),
        ('{"format": "other"}', "not the description of a corpus"),
        ('{"format": "calibadv.corpus", "version": 99}', "format version 99, .*update calibadv"),
        ('{"format": "calibadv.corpus", "version": 1}', r"description of a corpus \(num_documents: Field required\)"),
    ):
        (folder / "corpus.json").write_text(content)
        with pytest.raises(DataError, match=message):
            Corpus.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_documents": 0},
        {"num_documents": "1000"},
        {"num_documents": True},
        {"rows_per_batch": None},
        {"ids": "other"},
        {"sizes": {}},
        {"sizes": {"documents.arrow": "1", "ids.bin": 2}},
        {"sizes": {"documents.arrow": 1, "../ids.bin": 2}},
        {"sha256": 5},
        {"source": None},
        {"source": [1]},
        {"report": []},
        {"report": {"counts": {"broken": "x"}}},
        {"report": {"notes": None}},
        {"report": {"left_out": [1]}},
        {"surplus": 1},
    ],
)
def test_a_manifest_with_wrong_fields_is_refused(folder: Any, change: Any) -> None:
    record = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(DataError):
        Corpus.open(folder)


def test_more_or_fewer_documents_than_the_manifest_says_is_damage(folder: Any) -> None:
    record = json.loads((folder / "corpus.json").read_text())
    (folder / "ids.bin").write_bytes(b"\0" * 12 * 5000)
    sizes = {**record["sizes"], "ids.bin": 12 * 5000}
    (folder / "corpus.json").write_text(json.dumps({**record, "num_documents": 5000, "sizes": sizes}))
    with pytest.raises(DataError, match=r"damaged \(it has 4 batches for 5,000 documents\)"):
        Corpus.open(folder)


def test_an_id_index_that_leads_out_of_the_corpus_is_damage(folder: Any) -> None:
    content = (folder / "ids.bin").read_bytes()
    num_documents = len(content) // 12
    (folder / "ids.bin").write_bytes(content[: 8 * num_documents] + b"\xff" * (4 * num_documents))
    corpus = Corpus.open(folder)
    with pytest.raises(DataError, match="damaged"):
        corpus.get(corpus[3].id)
    with pytest.raises(DataError):
        corpus.verify()


def test_column_names_that_are_no_text_are_damage(folder: Any) -> None:
    path = folder / "documents.arrow"
    path.write_bytes(path.read_bytes().replace(b"title", b"titl\xff"))
    with pytest.raises(DataError, match="damaged"):
        Corpus.open(folder)


def test_a_foreign_arrow_file_is_refused(folder: Any) -> None:
    import pyarrow as pa

    table = pa.table({"a": [1, 2]})
    with pa.OSFile(str(folder / "documents.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "ids.bin").write_bytes(b"\0" * 24)
    record = json.loads((folder / "corpus.json").read_text())
    sizes = {name: (folder / name).stat().st_size for name in record["sizes"]}
    (folder / "corpus.json").write_text(json.dumps({**record, "num_documents": 2, "sizes": sizes}))
    with pytest.raises(DataError, match=r"its columns are \['a'\]"):
        Corpus.open(folder)


def test_verify_finds_a_changed_document_and_a_changed_index(folder: Any) -> None:
    Corpus.open(folder).verify()
    arrow = (folder / "documents.arrow").read_bytes()
    (folder / "documents.arrow").write_bytes(arrow.replace(b"text of 77", b"text of 78", 1))
    with pytest.raises(DataError, match="not those that were imported"):
        Corpus.open(folder).verify()
    (folder / "documents.arrow").write_bytes(arrow)
    ids = bytearray((folder / "ids.bin").read_bytes())
    ids[-4:] = ids[-8:-4]
    (folder / "ids.bin").write_bytes(ids)
    with pytest.raises(DataError, match=r"id of row \d+ does not lead there"):
        Corpus.open(folder).verify()


def test_damage_anywhere_is_an_error_and_never_a_crash(folder: Any) -> None:
    """Bytes are overwritten in many places: reading gives documents or DataError, whatever was hit."""
    arrow = (folder / "documents.arrow").read_bytes()
    rng = np.random.default_rng(0)
    for start in rng.integers(0, len(arrow) - 64, 60):
        damaged = bytearray(arrow)
        damaged[start : start + 64] = rng.bytes(64)
        (folder / "documents.arrow").write_bytes(damaged)
        try:
            corpus = Corpus.open(folder)
            for row in range(len(corpus)):
                with contextlib.suppress(DataError):
                    corpus[row]
            corpus.verify()
            # Else it hit bytes that mean nothing: padding, or the second copy of the column names.
            assert list(map(parts, corpus)) == list(map(parts, named(1000)))
        except DataError as error:
            assert str(folder) in str(error)  # noqa: PT017
