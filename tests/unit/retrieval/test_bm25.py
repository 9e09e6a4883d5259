"""BM25: what is found, in which order, and what an index folder refuses."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.errors import ConfigError, DataError
from calibadv.retrieval import BM25Config, BM25Retriever, Corpus
from calibadv.trajectory import Document

DOCUMENTS = [
    Document(id="ada", title="Ada Lovelace", text="wrote the first program for the engine"),
    Document(id="babbage", title="Charles Babbage", text="designed the analytical engine, an engine of brass"),
    Document(id="hopper", title="Grace Hopper", text="wrote a compiler"),
    Document(id="twin", title="Grace Hopper", text="wrote a compiler"),
]


@pytest.fixture(scope="module")
def retriever():
    return BM25Retriever.from_documents(DOCUMENTS)


def found(retriever, query, k=4):
    return [hit.document.id for hit in retriever.search([query], k)[0]]


def test_title_and_text_are_both_searched(retriever):
    assert found(retriever, "lovelace") == ["ada"]
    assert found(retriever, "BRASS!") == ["babbage"]


def test_equal_scores_come_in_corpus_order(retriever):
    assert found(retriever, "compiler") == ["hopper", "twin"]
    assert found(retriever, "compiler", k=1) == ["hopper"]


def test_hits_are_best_first_and_never_more_than_k(retriever):
    (hits,) = retriever.search(["engine program wrote"], 3)
    assert len(hits) == 3
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


def test_queries_without_a_known_word_find_nothing(retriever):
    queries = ["", "   ", "the of and", "zebra", "?!", "x", "☃", "a" * 100_000]
    assert retriever.search(queries, 3) == [[] for _ in queries]
    assert retriever.search([], 3) == []


def test_unknown_words_do_not_hide_known_ones(retriever):
    assert found(retriever, "zebra compiler") == ["hopper", "twin"]


def test_k_beyond_the_corpus_gives_what_matches_and_k_zero_is_an_error(retriever):
    assert len(found(retriever, "wrote", k=10**9)) == 3
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        retriever.search(["wrote"], 0)


def test_score_is_the_lucene_formula(retriever):
    # "brass": in 1 of 4 documents; lengths without stop words 6, 7, 4, 4.
    idf = math.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    mean_length = (6 + 7 + 4 + 4) / 4
    expected = idf * 1 / (1 + 1.5 * (1 - 0.75 + 0.75 * 7 / mean_length))
    assert retriever.search(["brass"], 1)[0][0].score == pytest.approx(expected, rel=1e-5)


def test_stop_words_can_be_kept():
    kept = BM25Retriever.from_documents(DOCUMENTS, config=BM25Config(stop_words="none"))
    assert found(kept, "the") == ["ada", "babbage"]


def test_search_from_many_threads_equals_search_from_one(retriever):
    queries = ["engine", "wrote compiler", "grace program", ""] * 50
    expected = retriever.search(queries, 2)
    with ThreadPoolExecutor(8) as pool:
        assert [hits for (hits,) in pool.map(lambda q: retriever.search([q], 2), queries)] == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="abc dé\n", max_size=12), max_size=4), st.integers(1, 6))
def test_any_text_can_be_asked(queries, k):
    retriever = BM25Retriever.from_documents(DOCUMENTS)
    first, second = retriever.search(queries, k), retriever.search(queries, k)
    assert first == second
    assert len(first) == len(queries)
    assert all(len(hits) <= k and all(hit.score > 0 for hit in hits) for hits in first)


def test_nothing_is_printed_while_indexing(capfd):
    BM25Retriever.from_documents(DOCUMENTS).search(["engine"], 1)
    assert capfd.readouterr() == ("", "")


def test_a_corpus_of_stop_words_cannot_be_indexed():
    with pytest.raises(DataError, match="no words to index"):
        BM25Retriever.from_documents([Document(id="1", title="", text="the of a x")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1.0}, "retrieval.bm25.k1 must be >= 0, got -1.0"),
        ({"k1": float("nan")}, "retrieval.bm25.k1 must be >= 0, got nan"),
        ({"b": 1.5}, "retrieval.bm25.b must be between 0 and 1, got 1.5"),
        ({"stop_words": "german"}, "retrieval.bm25.stop_words must be"),
    ],
)
def test_impossible_parameters_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BM25Config(**settings)


def test_a_saved_index_answers_like_the_one_it_came_from(tmp_path, retriever):
    retriever.save(tmp_path / "deep" / "index")
    opened = BM25Retriever.open(tmp_path / "deep" / "index")
    queries = ["engine", "grace wrote", "", "the"]
    assert opened.search(queries, 3) == retriever.search(queries, 3)
    assert opened.manifest() == retriever.manifest()
    assert not list(tmp_path.glob("**/*.partial*"))


def test_saving_refuses_a_folder_with_something_in_it(tmp_path, retriever):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        retriever.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_opening_something_else_says_so(tmp_path):
    with pytest.raises(DataError, match="this is not an index"):
        BM25Retriever.open(tmp_path)
    for text in ("[]", "{}", "nonsense"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="not a"):
            BM25Retriever.open(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "delete", "foreign"])
def test_a_damaged_index_is_refused(tmp_path, retriever, damage):
    folder = tmp_path / "index"
    retriever.save(folder)
    if damage == "truncate":
        data = (folder / "weights.npy").read_bytes()
        (folder / "weights.npy").write_bytes(data[:-8])
    elif damage == "delete":
        (folder / "rows.npy").unlink()
    else:
        np.save(folder / "starts.npy", np.array([0, 1], dtype=np.int64))
    with pytest.raises(DataError, match="build"):
        BM25Retriever.open(folder)


def test_changed_documents_are_noticed(tmp_path, retriever):
    folder = tmp_path / "index"
    retriever.save(folder)
    path = folder / "documents.jsonl"
    path.write_text(path.read_text("utf-8").replace("compiler", "computer"), "utf-8")
    with pytest.raises(DataError, match="not those that were indexed"):
        BM25Retriever.open(folder)


def test_open_or_build_builds_once_and_refuses_another_corpus_or_setting(tmp_path):
    folder, corpus = tmp_path / "index", Corpus.from_documents(DOCUMENTS)
    built = BM25Retriever.open_or_build(corpus, index_dir=folder)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    opened = BM25Retriever.open_or_build(corpus, index_dir=folder)
    assert opened.search(["wrote"], 3) == built.search(["wrote"], 3)
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match=r"holds another index: its corpus_sha256"):
        BM25Retriever.open_or_build(Corpus.from_documents(DOCUMENTS[:2]), index_dir=folder)
    with pytest.raises(ConfigError, match=r"holds another index: its parameters"):
        BM25Retriever.open_or_build(corpus, index_dir=folder, config=BM25Config(b=0.5))


def test_two_processes_may_build_the_same_index(tmp_path, monkeypatch):
    folder, corpus, save = tmp_path / "index", Corpus.from_documents(DOCUMENTS), BM25Retriever.save

    def beaten(self, index_dir):
        save(self, index_dir)
        raise OSError("Directory not empty")

    monkeypatch.setattr(BM25Retriever, "save", beaten)
    assert found(BM25Retriever.open_or_build(corpus, index_dir=folder), "lovelace") == ["ada"]
    monkeypatch.setattr(BM25Retriever, "save", lambda self, index_dir: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        BM25Retriever.open_or_build(corpus, index_dir=tmp_path / "other")


def test_an_index_has_no_pickle(tmp_path, retriever):
    retriever.save(tmp_path / "index")
    names = sorted(p.name for p in (tmp_path / "index").iterdir())
    assert names == ["documents.jsonl", "manifest.json", "rows.npy", "starts.npy", "weights.npy", "words.json"]
    for name in ("rows", "starts", "weights"):
        np.load(tmp_path / "index" / f"{name}.npy", allow_pickle=False)
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["num_documents"] == 4
