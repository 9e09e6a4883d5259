"""Fusion by rank, and hybrid folders. The parts here are two BM25 indexes: with stop words and without."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.retrieval import BM25Config, BM25Retriever, Corpus
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.hybrid import HybridConfig, HybridRetriever, fuse, write_hybrid
from calibadv.retrieval.open import open_index
from calibadv.trajectory import Document

pytest.importorskip("tantivy")

CORPUS = Corpus.from_documents(
    [
        Document(id="ada", title="Ada Lovelace", text="wrote the first program for the engine"),
        Document(id="babbage", title="Charles Babbage", text="designed the analytical engine, an engine of brass"),
        Document(id="hopper", title="Grace Hopper", text="wrote a compiler in the navy"),
        Document(id="the", title="The The", text="the band of the name"),
    ]
)
PARTS = {
    "words": BM25Retriever.from_documents(CORPUS),
    "all": BM25Retriever.from_documents(CORPUS, config=BM25Config(stop_words="none")),
}


class ByDocuments:
    """A part that knows documents only, such as a re-ranked one."""

    corpus, version = CORPUS, "1"

    def __init__(self, part: Any = PARTS["words"]) -> None:
        self.part = part

    def search(self, queries: Any, k: Any) -> Any:
        return self.part.search(queries, k)

    def manifest(self) -> Any:
        return {"method": "other"}


def ids(hits: Any) -> Any:
    return [hit.document.id for hit in hits]


def test_a_document_scores_the_reciprocals_of_its_ranks() -> None:
    fused = fuse([[(7, 9.0), (3, 8.0)], [(3, 0.9), (5, 0.8), (7, 0.1)]], k=3)
    assert fused == [(3, 1 / 62 + 1 / 61), (7, 1 / 61 + 1 / 63), (5, 1 / 62)]


def test_equal_sums_come_in_row_order() -> None:
    assert [row for row, _ in fuse([[(9, 1.0)], [(2, 1.0)], [(5, 1.0)]], k=2)] == [2, 5]


@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=20), min_size=1, max_size=3), st.integers(1, 40))
def test_fusion_finds_what_the_lists_hold_best_first(rankings: Any, k: Any) -> None:
    lists = [[(row, 1.0 / rank) for rank, row in enumerate(ranking, 1)] for ranking in rankings]
    fused = fuse(lists, k=k)
    assert len(fused) == min(k, len({row for ranking in rankings for row in ranking}))
    assert fused == sorted(fused, key=lambda hit: (-hit[1], hit[0]))
    assert {row for row, _ in fused} <= {row for ranking in rankings for row in ranking}
    if len(lists) == 1:
        assert [row for row, _ in fused] == rankings[0][:k]


def test_a_hybrid_finds_what_either_part_finds() -> None:
    hybrid = HybridRetriever(PARTS)
    queries = ["the band", "the", "engine", "zebra", ""]
    hits = hybrid.search(queries, 4)
    assert ids(hits[0])[0] == "the"
    assert set(ids(hits[1])) == {"ada", "babbage", "hopper", "the"}  # the part without stop words finds them all
    assert hits[3:] == [[], []]
    assert [[(CORPUS[row], score) for row, score in rows] for rows in hybrid.search_rows(queries, 4)] == [
        [tuple(hit) for hit in found] for found in hits
    ]


def test_depth_bounds_the_candidates_but_never_the_hits_asked_for() -> None:
    shallow = HybridRetriever(PARTS, config=HybridConfig(depth=1))
    assert len(shallow.search(["the engine"], 1)[0]) == 1
    assert len(shallow.search(["the engine"], 4)[0]) == 4


def test_a_part_may_know_documents_only() -> None:
    mixed = HybridRetriever({"words": ByDocuments(), "all": PARTS["all"]})
    assert mixed.search(["wrote the engine"], 4) == HybridRetriever(PARTS).search(["wrote the engine"], 4)
    stranger = ByDocuments(BM25Retriever.from_documents([Document(id="x", title="", text="engine")]))
    with pytest.raises(RetrieverError, match="found the document 'x', which is not in its corpus"):
        HybridRetriever({"words": stranger, "all": PARTS["all"]}).search(["engine"], 3)


def test_a_forked_process_can_search(fork: Any) -> None:
    hybrid = HybridRetriever(PARTS)
    for _ in range(20):
        hybrid.search(["engine"], 1)  # both threads are there

    def search() -> None:
        assert ids(hybrid.search(["brass"], 1)[0]) == ["babbage"]

    assert os.waitpid(fork(search), 0)[1] == 0


def test_a_part_that_fails_fails_the_search() -> None:
    class Broken(ByDocuments):
        def search(self, queries: Any, k: Any) -> None:
            raise RetrieverError("gone")

    with pytest.raises(RetrieverError, match="gone"):
        HybridRetriever({"words": PARTS["words"], "broken": Broken()}).search(["engine"], 3)  # type: ignore[dict-item]


def test_searches_and_settings_that_make_no_sense_are_refused() -> None:
    hybrid = HybridRetriever(PARTS)
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        hybrid.search(["engine"], 0)
    with pytest.raises(ConfigError, match="got one string"):
        hybrid.search("engine", 3)
    with pytest.raises(ConfigError, match=r"rrf_k must be >= 1, got 0"):
        HybridConfig(rrf_k=0)
    with pytest.raises(ConfigError, match=r"depth must be >= 1, got -1"):
        HybridConfig(depth=-1)
    with pytest.raises(ConfigError, match="two parts or more, got 1"):
        HybridRetriever({"words": PARTS["words"]})
    other = BM25Retriever.from_documents([Document(id="x", title="", text="engine")])
    with pytest.raises(DataError, match="the corpus of 'other' is another one"):
        HybridRetriever({"words": PARTS["words"], "other": other})


def build(folder: Any, *, config: Any = None) -> Any:
    """Two BM25 indexes and a hybrid of them below ``folder``."""
    folders = {"words": folder / "words", "all": folder / "all"}
    build_bm25(CORPUS, out=folders["words"])
    build_bm25(CORPUS, out=folders["all"], config=BM25Config(stop_words="none"))
    parts = {name: open_index(path, corpus=CORPUS) for name, path in folders.items()}
    write_hybrid(folders, parts=parts, out=folder / "hybrid", place="", config=config or HybridConfig())
    return folder / "hybrid"


def test_a_folder_opens_as_the_hybrid_it_was_made_of_also_where_it_has_moved(tmp_path: Path) -> None:
    build(tmp_path / "here", config=HybridConfig(rrf_k=10, depth=7))
    (tmp_path / "here").rename(tmp_path / "there")
    opened = open_index(tmp_path / "there" / "hybrid", corpus=CORPUS)
    made = HybridRetriever(PARTS, config=HybridConfig(rrf_k=10, depth=7))
    assert isinstance(opened, HybridRetriever)
    assert opened.config == made.config
    assert opened.version == made.version == opened.manifest()["version"]
    assert opened.version != HybridRetriever(PARTS).version
    assert opened.search(["wrote the engine"], 3) == made.search(["wrote the engine"], 3)
    assert opened.manifest()["parts"]["all"]["parameters"]["stop_words"] == "none"


def test_a_hybrid_whose_part_is_gone_or_another_one_is_refused(tmp_path: Path) -> None:
    hybrid = build(tmp_path)
    (tmp_path / "words").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="words: no manifest"):
        open_index(hybrid, corpus=CORPUS)
    build_bm25(CORPUS, out=tmp_path / "words", config=BM25Config(stop_words="none"))
    with pytest.raises(DataError, match="its part 'words' is not the one it was made of; remove"):
        open_index(hybrid, corpus=CORPUS)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("parts.json", "nonsense", "does not name the parts of a hybrid"),
        ("parts.json", '["../words"]', "does not name the parts of a hybrid"),
        ("parts.json", '{"all": "../all"}', "does not say where the part 'words' is"),
        ("parts.json", None, "does not name the parts of a hybrid"),
    ],
)
def test_a_damaged_hybrid_is_refused(tmp_path: Path, file: Any, text: str, message: str) -> None:
    hybrid = build(tmp_path)
    (hybrid / file).unlink() if text is None else (hybrid / file).write_text(text)
    with pytest.raises(DataError, match=message):
        open_index(hybrid, corpus=CORPUS)


def test_another_kind_of_manifest_is_not_a_hybrid(tmp_path: Path) -> None:
    hybrid = build(tmp_path)
    with pytest.raises(DataError, match="is a bm25 index, not a hybrid"):
        HybridRetriever.open(tmp_path / "words", open_part=None)  # type: ignore[arg-type]
    record = json.loads((hybrid / "manifest.json").read_text())
    (hybrid / "manifest.json").write_text(json.dumps(record | {"parameters": {}}))
    with pytest.raises(DataError, match="not that of a hybrid"):
        open_index(hybrid, corpus=CORPUS)
