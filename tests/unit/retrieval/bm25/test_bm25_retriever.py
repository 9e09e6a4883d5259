"""BM25: what is found, in which order, and what an index folder refuses."""

import json
import math
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.retrieval import BM25Config, BM25Retriever, Corpus
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.bm25.retriever import MAX_WORDS
from calibadv.trajectory import Document

pytest.importorskip("tantivy")

DOCUMENTS = [
    Document(id="ada", title="Ada Lovelace", text="wrote the first program for the engine"),
    Document(id="babbage", title="Charles Babbage", text="designed the analytical engine, an engine of brass"),
    Document(id="hopper", title="Grace Hopper", text="wrote a compiler"),
    Document(id="twin", title="Grace Hopper", text="wrote a compiler"),
]


@pytest.fixture(scope="module")
def retriever() -> Any:
    return BM25Retriever.from_documents(DOCUMENTS)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """An index of DOCUMENTS on disk; its corpus is in memory."""
    build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path / "index")
    return tmp_path / "index"


def found(retriever: Any, query: Any, k: Any = 4) -> Any:
    return [hit.document.id for hit in retriever.search([query], k)[0]]


def open_index(folder: Any, documents: Any = DOCUMENTS) -> Any:
    return BM25Retriever.open(folder, corpus=Corpus.from_documents(documents))


def test_title_and_text_are_both_searched(retriever: Any) -> None:
    assert found(retriever, "lovelace") == ["ada"]
    assert found(retriever, "BRASS!") == ["babbage"]


def test_equal_scores_come_in_corpus_order(retriever: Any) -> None:
    assert found(retriever, "compiler") == ["hopper", "twin"]
    assert found(retriever, "compiler", k=1) == ["hopper"]


def test_hits_are_best_first_and_never_more_than_k(retriever: Any) -> None:
    (hits,) = retriever.search(["engine program wrote"], 3)
    assert len(hits) == 3
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_rows_are_those_of_the_documents(retriever: Any) -> None:
    queries = ["wrote engine", "", "brass"]
    rows = [[(DOCUMENTS[row], score) for row, score in hits] for hits in retriever.search_rows(queries, 2)]
    assert rows == [[tuple(hit) for hit in hits] for hits in retriever.search(queries, 2)]


def test_queries_without_a_known_word_find_nothing(retriever: Any) -> None:
    queries = ["", "   ", "the of and", "zebra", "?!", "x", "☃", "a" * 100_000, "\ud800", "\x00"]
    assert retriever.search(queries, 3) == [[] for _ in queries]
    assert retriever.search([], 3) == []


def test_a_query_is_words_and_never_syntax(retriever: Any) -> None:
    for query in ('text:"compiler', "-compiler", "compiler AND zebra", "text:compiler^0", "+zebra compiler"):
        assert found(retriever, query) == ["hopper", "twin"]
    for query in ("comp*", "[a TO b]", "compilr~2", "/.*/"):
        assert found(retriever, query) == []


def test_unknown_words_do_not_hide_known_ones(retriever: Any) -> None:
    assert found(retriever, "zebra compiler") == ["hopper", "twin"]


def test_a_repeated_word_counts_as_often(retriever: Any) -> None:
    (once,), (twice,) = retriever.search(["brass"], 1)[0], retriever.search(["brass brass"], 1)[0]
    assert twice.score == pytest.approx(2 * once.score)


def test_accents_match_composed_or_not() -> None:
    retriever = BM25Retriever.from_documents([Document(id="1", title="Kaka\u0301", text="plays")])
    assert found(retriever, "kaká") == found(retriever, "KAKA\u0301") == ["1"]
    assert found(retriever, "kaka") == []


def test_a_megabyte_of_query_is_cut_to_its_first_words(retriever: Any) -> None:
    many = " ".join(f"w{number}" for number in range(MAX_WORDS - 1))
    assert found(retriever, f"{many} compiler") == ["hopper", "twin"]
    assert found(retriever, f"{many} extra compiler") == []
    assert found(retriever, "compiler " * 120_000) == ["hopper", "twin"]


def test_k_beyond_the_corpus_gives_what_matches(retriever: Any) -> None:
    assert len(found(retriever, "wrote", k=10**9)) == 3
    assert found(retriever, "zebra", k=10**9) == []


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (["wrote"], 0, "k must be >= 1, got 0"),
        (["wrote"], -3, "k must be >= 1, got -3"),
        (["wrote"], 2.5, "k must be a whole number, got 2.5"),
        (["wrote"], True, "k must be a whole number, got True"),
        ("wrote", 3, "must be a list of strings, got one string"),
        (["wrote", None], 3, "number 1 is of type NoneType"),
        ([b"wrote"], 3, "number 0 is of type bytes"),
    ],
)
def test_searches_that_make_no_sense_are_refused(retriever: Any, queries: Any, k: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        retriever.search(queries, k)


def test_score_is_the_lucene_formula(retriever: Any) -> None:
    # "brass": in 1 of 4 documents; lengths without stop words 6, 7, 4, 4 (below 40 the engine keeps them exactly).
    idf = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    mean_length = (6 + 7 + 4 + 4) / 4
    expected = idf * 2.2 * 1 / (1 + 1.2 * (1 - 0.75 + 0.75 * 7 / mean_length))
    assert retriever.search(["brass"], 1)[0][0].score == pytest.approx(expected, rel=1e-5)


def test_stop_words_can_be_kept() -> None:
    kept = BM25Retriever.from_documents(DOCUMENTS, config=BM25Config(stop_words="none"))
    assert found(kept, "the") == ["ada", "babbage"]


def test_search_from_many_threads_equals_search_from_one(retriever: Any) -> None:
    queries = ["engine", "wrote compiler", "grace program", ""] * 50
    expected = retriever.search(queries, 2)
    with ThreadPoolExecutor(8) as pool:
        assert [hits for (hits,) in pool.map(lambda q: retriever.search([q], 2), queries)] == expected


def test_the_queries_of_one_call_may_share_threads(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shared = open_index(folder), BM25Retriever.open(folder, corpus=Corpus.from_documents(DOCUMENTS), threads=3)
    monkeypatch.setattr("calibadv.retrieval.bm25.retriever._WORTH_THREADS", 1)
    queries = ["engine", "wrote compiler", "", "grace"] * 10
    assert shared.search(queries, 2) == alone.search(queries, 2)


@settings(max_examples=40)
@given(st.lists(st.text(alphabet="abc dé\n\ud800", max_size=12), max_size=4), st.integers(1, 6))
def test_any_text_can_be_asked(queries: Any, k: Any) -> None:
    retriever = BM25Retriever.from_documents(DOCUMENTS)
    first, second = retriever.search(queries, k), retriever.search(queries, k)
    assert first == second
    assert len(first) == len(queries)
    assert all(len(hits) <= k and all(hit.score > 0 for hit in hits) for hits in first)


def test_hits_do_not_depend_on_the_threads_that_indexed(tmp_path: Path) -> None:
    # Forty texts, 3,000 documents: nearly all scores are ties, and four threads leave several segments.
    texts = [" ".join(f"w{(7 * n + 3 * m) % 23}" for m in range(3 + n % 5)) for n in range(40)]
    documents = [Document(id=str(n), title="", text=texts[n * n % 40]) for n in range(3000)]
    corpus = Corpus.from_documents(documents)
    queries = [f"w{a} w{b}" for a in range(12) for b in (3, 17)] + ["w5"]
    build_bm25(corpus, out=tmp_path / "one", threads=1)
    build_bm25(corpus, out=tmp_path / "four", threads=4)
    one, four = (BM25Retriever.open(tmp_path / name, corpus=corpus) for name in ("one", "four"))
    segments = [
        len(json.loads((tmp_path / n / "tantivy" / "meta.json").read_text())["segments"]) for n in ("one", "four")
    ]
    assert segments[0] < segments[1]
    for k in (1, 7, 40, 3000):
        assert one.search_rows(queries, k) == four.search_rows(queries, k)
    for hits in one.search_rows(queries, 3000):
        assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))
    assert [hits[:7] for hits in one.search_rows(queries, 3000)] == one.search_rows(queries, 7)


def test_nothing_is_printed_while_indexing(capfd: pytest.CaptureFixture[str]) -> None:
    BM25Retriever.from_documents(DOCUMENTS).search(["engine"], 1)
    assert capfd.readouterr() == ("", "")


def test_a_corpus_of_stop_words_finds_nothing() -> None:
    assert found(BM25Retriever.from_documents([Document(id="1", title="", text="the of a x")]), "the x of") == []


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retrieval\.bm25\.stop_words must be"):
        BM25Config(stop_words="german")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads must be >= 1, got 0"):
        build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path / "index", threads=0)


def test_an_index_on_disk_answers_like_one_in_memory(folder: Any, retriever: Any) -> None:
    opened = open_index(folder)
    queries = ["engine", "grace wrote", "", "the"]
    assert opened.search(queries, 3) == retriever.search(queries, 3)
    assert opened.manifest() == retriever.manifest()
    assert opened.version == retriever.version
    assert opened.manifest()["num_documents"] == 4
    assert not list(folder.parent.glob("**/*.partial*"))


def test_the_text_is_not_kept_a_second_time(tmp_path: Path) -> None:
    documents = [Document(id=str(n), title="", text=f"common{'x' * 5000} word{n}") for n in range(200)]
    build_bm25(Corpus.from_documents(documents), out=tmp_path / "index")
    assert sum(p.stat().st_size for p in (tmp_path / "index").rglob("*") if p.is_file()) < 50_000


def test_progress_counts_documents(tmp_path: Path) -> None:
    seen = []
    build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path / "index", progress=lambda *done: seen.append(done))
    assert seen[-1] == (4, 4)


def test_building_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("num_bytes", [0, 500, 3000])
def test_a_disk_that_is_full_is_named_and_nothing_is_left(tmp_path: Path, num_bytes: Any) -> None:
    documents = [Document(id=str(i), title="", text=" ".join(f"w{i}x{j}" for j in range(50))) for i in range(200)]
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        with pytest.raises(DataError) as raised:
            build_bm25(Corpus.from_documents(documents), out=tmp_path / "bm25")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "disk" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_of_two_builds_of_one_folder_the_slower_one_is_refused(tmp_path: Path) -> None:
    def another(done: Any, total: Any) -> None:
        (tmp_path / "bm25").mkdir(exist_ok=True)
        (tmp_path / "bm25" / "mine.txt").write_text("mine")

    with pytest.raises(ConfigError, match="another process wrote it"):
        build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path / "bm25", progress=another)
    assert [path.name for path in tmp_path.iterdir()] == ["bm25"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: Any, total: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bm25(Corpus.from_documents(DOCUMENTS), out=tmp_path / "index", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_opening_something_else_says_so(tmp_path: Path, folder: Any) -> None:
    with pytest.raises(DataError, match="this is not an index"):
        BM25Retriever.open(tmp_path)
    for text in ("[]", "{}", "nonsense"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=r"not an? |must hold a JSON object|cannot be read"):
            BM25Retriever.open(tmp_path)
    record = json.loads((folder / "manifest.json").read_text())
    for change, message in (({"method": "dense"}, "is a dense index"), ({"parameters": {}}, "built by other rules")):
        (folder / "manifest.json").write_text(json.dumps(record | change))
        with pytest.raises(DataError, match=message):
            open_index(folder)


def engine_file(folder: Any, ending: Any) -> Any:
    (path,) = (folder / "tantivy").glob(f"*{ending}")
    return path


@pytest.mark.parametrize("damage", ["truncate", "delete", "longer", "no list", "foreign list"])
def test_a_damaged_index_is_refused(folder: Any, damage: Any) -> None:
    path = engine_file(folder, ".idx")
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "delete":
        path.unlink()
    elif damage == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif damage == "no list":
        (folder / "files.json").unlink()
    else:
        (folder / "files.json").write_text('{"../../etc/passwd": {"bytes": 1, "sha256": ""}}')
    with pytest.raises(DataError, match="build"):
        open_index(folder)


def test_files_that_were_overwritten_fail_as_errors_and_not_as_crashes(folder: Any) -> None:
    for name in ("idx", "term", "fast", "fieldnorm"):
        path = engine_file(folder, f".{name}")
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises((DataError, RetrieverError), match=r"engine failed|broken index"):
        open_index(folder).search(["engine wrote"], 3)


def test_an_index_that_may_not_be_written_to_can_be_searched(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tantivy" / ".tantivy-meta.lock").unlink()
    before = sorted(path.name for path in (folder / "tantivy").iterdir())
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))
    assert found(open_index(folder), "program") == found(BM25Retriever.from_documents(DOCUMENTS), "program")
    assert sorted(path.name for path in (folder / "tantivy").iterdir()) == before


def test_others_may_read_an_index_as_far_as_its_manifest(folder: Any) -> None:
    mode = (folder / "manifest.json").stat().st_mode
    names = [path for path in (folder / "tantivy").iterdir() if path.suffix != ".lock"]
    assert {path.stat().st_mode for path in names} == {mode}


def test_a_file_that_may_not_be_read_is_named_with_the_remedy(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "meta.json")
    with pytest.raises(DataError, match=r"meta.json may not be read by this user; ask its owner: chmod"):
        open_index(folder)


def test_the_engine_s_files_of_another_index_are_noticed(folder: Any, tmp_path: Path) -> None:
    build_bm25(Corpus.from_documents(DOCUMENTS[:2]), out=tmp_path / "other")
    for name in ("tantivy", "files.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (tmp_path / "other" / name).rename(path)
    with pytest.raises(DataError, match="does not hold the 4 documents"):
        open_index(folder)


def test_another_corpus_is_refused(folder: Any) -> None:
    with pytest.raises(DataError, match="the corpus has 3 documents, the index 4"):
        open_index(folder, DOCUMENTS[:3])
    changed = [*DOCUMENTS[:3], Document(id="twin", title="Grace Hopper", text="wrote a computer")]
    with pytest.raises(DataError, match="not the one that was indexed"):
        open_index(folder, changed)
    with pytest.raises(ConfigError, match=r"does not say where the corpus is; name it \(--corpus\)"):
        BM25Retriever.open(folder)


def test_open_or_build_builds_once_and_refuses_another_corpus_or_setting(tmp_path: Path) -> None:
    folder, corpus = tmp_path / "index", Corpus.from_documents(DOCUMENTS)
    built = BM25Retriever.open_or_build(corpus, index_dir=folder)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    opened = BM25Retriever.open_or_build(corpus, index_dir=folder)
    assert opened.search(["wrote"], 3) == built.search(["wrote"], 3)
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match=r"holds another index: its corpus_sha256"):
        BM25Retriever.open_or_build(Corpus.from_documents(DOCUMENTS[:2]), index_dir=folder)
    with pytest.raises(ConfigError, match=r"holds another index: its parameters"):
        BM25Retriever.open_or_build(corpus, index_dir=folder, config=BM25Config(stop_words="none"))


def test_two_processes_may_build_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, corpus = tmp_path / "index", Corpus.from_documents(DOCUMENTS)

    def beaten(corpus: Any, *, out: Any, config: Any) -> None:
        build_bm25(corpus, out=out, config=config)
        raise OSError("Directory not empty")

    monkeypatch.setattr("calibadv.retrieval.bm25.retriever.build_bm25", beaten)
    assert found(BM25Retriever.open_or_build(corpus, index_dir=folder), "lovelace") == ["ada"]

    def full(corpus: Any, *, out: Any, config: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("calibadv.retrieval.bm25.retriever.build_bm25", full)
    with pytest.raises(OSError, match="disk full"):
        BM25Retriever.open_or_build(corpus, index_dir=tmp_path / "other")


def by_hand(query: str, document: Document, *, k1: float, b: float) -> float:
    """BM25 with Lucene's idf, from its formula."""
    words = {d.id: re.findall(r"\w\w+", f"{d.title} {d.text}".lower()) for d in WEIGHED}
    average = sum(map(len, words.values())) / len(words)
    score = 0.0
    for word in query.split():
        holding = sum(word in found for found in words.values())
        idf = math.log(1 + (len(words) - holding + 0.5) / (holding + 0.5))
        n = words[document.id].count(word)
        if n:
            score += idf * n * (k1 + 1) / (n + k1 * (1 - b + b * len(words[document.id]) / average))
    return score


WEIGHED = [
    Document(id="1", title="Ada", text="engine engine engine engine notes"),
    Document(id="2", title="Babbage", text="engine machine"),
    Document(id="3", title="Clock", text="machine " + "wheel " * 30 + "engine"),
    Document(id="4", title="Dog", text="bark"),
]


def test_hits_are_weighed_as_the_formula_says() -> None:
    retriever = BM25Retriever.from_documents(WEIGHED, config=BM25Config(stop_words="none"))
    (hits,) = retriever.search(["engine machine engine"], 4)
    expected = {d.id: by_hand("engine machine engine", d, k1=1.2, b=0.75) for d in WEIGHED[:3]}
    assert {hit.document.id: hit.score for hit in hits} == pytest.approx(expected)


def test_an_index_of_other_rules_is_refused(tmp_path: Path) -> None:
    corpus = Corpus.from_documents(WEIGHED)
    build_bm25(corpus, out=tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    record = json.loads(path.read_text())
    record["parameters"]["k1"] = 1.5
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="built by other rules"):
        BM25Retriever.open(tmp_path / "index", corpus=corpus)
