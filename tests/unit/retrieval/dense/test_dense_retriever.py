"""Searching: hits, ties, errors, and what is checked when an index is opened."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.evaluation.recall import RecallConfig, measure_recall
from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder import Encoder
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.trajectory import Document, Question

QUERIES = ["ada wrote the song", "battle of the north", "glass garden"]


@pytest.fixture(scope="module")
def folders(corpus: Any, plain_encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An index folder per kind."""
    root = tmp_path_factory.mktemp("indexes")
    kinds = ("flat", "fp16", "sq8", "hnsw", "ivf-sq8")
    config = EncoderConfig(model=str(plain_encoder), device="cpu")
    for kind in kinds:
        build_dense(corpus, index_dir=root / kind, encoder_config=config, kind=kind)  # type: ignore[arg-type]
    return {kind: root / kind for kind in kinds}


@pytest.fixture(scope="module")
def flat(folders: Any, corpus: Any) -> Any:
    return DenseRetriever.open(folders["flat"], corpus=corpus)


@pytest.fixture
def copy(folders: Any, tmp_path: Path) -> Any:
    """``copy(kind)`` is a folder that a test may spoil."""
    return lambda kind: shutil.copytree(folders[kind], tmp_path / kind)


def ids(results: Any) -> Any:
    return [[hit.document.id for hit in hits] for hits in results]


def test_hits_are_the_nearest_documents_best_first(flat: Any, corpus: Any) -> None:
    vectors = flat.encoder.encode_documents(list(corpus))
    scores = flat.encoder.encode_queries(QUERIES) @ vectors.T
    got = flat.search(QUERIES, 7)
    for hits, row_scores in zip(got, scores, strict=True):
        order = np.argsort(-row_scores, kind="stable")[:7]
        assert [hit.document for hit in hits] == [corpus[int(row)] for row in order]
        np.testing.assert_allclose([hit.score for hit in hits], row_scores[order], atol=1e-5)
    assert got[0][0].document.text  # whole documents, not ids


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8", "hnsw", "ivf-sq8"])
def test_recall_compares_every_kind_that_is_not_exact_with_exact_search(folders: Any, corpus: Any, kind: str) -> None:
    questions = [Question(id=str(i), text=text, golden_answers=("ada",)) for i, text in enumerate(QUERIES)]
    retriever = DenseRetriever.open(folders[kind], corpus=corpus)
    (row,) = measure_recall(questions, retriever=retriever, config=RecallConfig(ks=(5,)))
    assert row.num_exact == (0 if kind == "flat" else 3)
    assert all(share > 0.5 for share in row.exact.values())


def test_rows_are_found_without_their_documents(flat: Any, corpus: Any) -> None:
    queries = [*QUERIES, ""]
    found = [[(corpus[row], score) for row, score in hits] for hits in flat.search_rows(queries, 5)]
    assert found == [[tuple(hit) for hit in hits] for hits in flat.search(queries, 5)]
    assert [len(hits) for hits in found] == [5, 5, 5, 0]


@pytest.mark.parametrize("kind", ["fp16", "sq8", "hnsw", "ivf-sq8"])
def test_every_kind_finds_what_exact_search_finds(folders: Any, corpus: Any, flat: Any, kind: str) -> None:
    retriever = DenseRetriever.open(folders[kind], corpus=corpus)
    got, want = retriever.search(QUERIES, 10), flat.search(QUERIES, 10)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(ids(got), ids(want), strict=True)]
    assert np.mean(shared) >= 0.9
    assert ids(retriever.search_exact(QUERIES, 10)) == ids(want)
    for hits in got:
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_vectors_loaded_onto_a_device_are_searched_exactly(
    folders: Any, corpus: Any, flat: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibadv.retrieval.dense import folder
    from calibadv.retrieval.dense import gpu_search as exact

    monkeypatch.setattr(folder, "gpu_for", lambda *_, **__: "cpu")
    monkeypatch.setattr(exact, "_SCORES", 3 * 70)  # several rounds
    monkeypatch.setattr(exact, "_LOAD_ROWS", 90)
    retriever = DenseRetriever.open(folders[kind], corpus=corpus, encoder=flat.encoder, search_device="cuda")
    assert isinstance(retriever.index.faiss_index, exact.TorchIndex)
    for k in (1, 10, 300):
        assert ids(retriever.search(QUERIES, k)) == ids(retriever.search_exact(QUERIES, k))


def test_rescoring_gives_the_scores_of_the_stored_vectors(folders: Any, corpus: Any) -> None:
    retriever = DenseRetriever.open(folders["sq8"], corpus=corpus)
    exact = {hit.document.id: hit.score for hit in retriever.search_exact(QUERIES[:1], 300)[0]}
    for hit in retriever.search(QUERIES[:1], 5)[0]:
        assert hit.score == pytest.approx(exact[hit.document.id], abs=1e-5)


def test_more_hits_than_documents_give_every_document_once(folders: Any, corpus: Any) -> None:
    for kind in ("flat", "sq8", "hnsw"):
        (hits,) = DenseRetriever.open(folders[kind], corpus=corpus).search(["song"], 10**9)
        assert len({hit.document.id for hit in hits}) == len(hits)
        assert len(hits) == 300 if kind != "hnsw" else len(hits) > 280


def test_equal_scores_are_ordered_by_row(plain_encoder: Any, tmp_path: Path) -> None:
    documents = [Document(id=str(i), title="king", text="of the north") for i in range(40)]
    twins = Corpus.from_documents([*documents, Document(id="x", title="glass", text="engine")])
    build_dense(twins, index_dir=tmp_path / "d", encoder_config=EncoderConfig(model=str(plain_encoder)))
    retriever = DenseRetriever.open(tmp_path / "d", corpus=twins)
    for k in (1, 3, 40):
        (hits,) = retriever.search(['"king"\nof the north'], k)
        assert [hit.document.id for hit in hits] == [str(i) for i in range(k)]


def test_blank_queries_find_nothing_and_no_queries_give_no_results(flat: Any) -> None:
    assert flat.search([], 3) == []
    assert ids(flat.search(["", "   \n", QUERIES[0]], 2)) == [[], [], ids(flat.search(QUERIES[:1], 2))[0]]


def test_a_megabyte_of_query_is_cut_and_answered(flat: Any) -> None:
    assert len(flat.search(["song " * 200_000], 3)[0]) == 3


@pytest.mark.parametrize("k", [0, -1])
def test_fewer_than_one_hit_cannot_be_asked_for(flat: Any, k: Any) -> None:
    with pytest.raises(ConfigError, match="k must be >= 1"):
        flat.search(["song"], k)


def test_queries_of_several_threads_do_not_mix(flat: Any) -> None:
    want = [ids(flat.search([query], 5)) for query in QUERIES]
    wrong = []

    def work(number: Any) -> None:
        for _ in range(10):
            if ids(flat.search([QUERIES[number]], 5)) != want[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n % 3,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_encoder_that_gives_nan_is_an_error_and_not_an_empty_result(
    flat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Encoder, "encode_queries", lambda self, queries: np.full((len(queries), 32), np.nan, np.float32)
    )
    with pytest.raises(RetrieverError, match="not finite for the query 'song'"):
        flat.search(["song"], 3)


def test_version_and_manifest_identify_the_index(folders: Any, corpus: Any, flat: Any) -> None:
    again = DenseRetriever.open(folders["flat"], corpus=corpus)
    assert again.version == flat.version != DenseRetriever.open(folders["sq8"], corpus=corpus).version
    manifest = flat.manifest()
    assert (manifest["method"], manifest["num_documents"]) == ("dense", 300)
    assert manifest["parameters"]["encoder"]["dimension"] == 32
    json.dumps(manifest)


def test_an_index_without_its_vectors_searches_but_has_no_exact_search(
    corpus: Any, plain_encoder: Any, tmp_path: Path
) -> None:
    config = EncoderConfig(model=str(plain_encoder))
    build_dense(corpus, index_dir=tmp_path / "d", encoder_config=config, kind="sq8", keep_vectors=False)
    retriever = DenseRetriever.open(tmp_path / "d", corpus=corpus)
    assert len(retriever.search(["song"], 5)[0]) == 5
    with pytest.raises(DataError, match="its vectors were not kept"):
        retriever.search_exact(["song"], 5)


def test_a_missing_folder_and_a_foreign_one_are_no_index(corpus: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an index"):
        DenseRetriever.open(tmp_path / "nowhere", corpus=corpus)
    (tmp_path / "manifest.json").write_text('{"name": "something else"}')
    with pytest.raises(DataError, match="not an index"):
        DenseRetriever.open(tmp_path, corpus=corpus)


@pytest.mark.parametrize("kind", ["flat", "sq8", "hnsw", "ivf-sq8"])
def test_a_truncated_index_file_is_noticed(copy: Any, corpus: Any, kind: str) -> None:
    folder = copy(kind)
    path = folder / ("vectors.faiss" if kind == "flat" else "index.faiss")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="truncated or replaced; build the index again"):
        DenseRetriever.open(folder, corpus=corpus)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        DenseRetriever.open(folder, corpus=corpus)


def test_a_damaged_index_file_of_the_right_size_is_noticed(copy: Any, corpus: Any) -> None:
    folder = copy("hnsw")
    path = folder / "index.faiss"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(DataError, match="FAISS cannot read it"):
        DenseRetriever.open(folder, corpus=corpus)


def test_truncated_or_missing_vectors_for_rescoring_are_noticed(copy: Any, corpus: Any) -> None:
    folder = copy("sq8")
    path = folder / "vectors.faiss"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="FAISS cannot read it"):
        DenseRetriever.open(folder, corpus=corpus)
    path.unlink()
    with pytest.raises(DataError, match="re-scored with are missing"):
        DenseRetriever.open(folder, corpus=corpus)


def test_another_corpus_and_a_shorter_one_are_refused(folders: Any, corpus: Any, documents_of: Any) -> None:
    with pytest.raises(DataError, match="299 documents, the index 300"):
        DenseRetriever.open(folders["flat"], corpus=Corpus.from_documents(list(corpus)[:299]))
    with pytest.raises(DataError, match="not the one that was indexed"):
        DenseRetriever.open(folders["flat"], corpus=Corpus.from_documents(documents_of(300, seed=5)))
    with pytest.raises((DataError, ConfigError), match="--corpus"):
        DenseRetriever.open(folders["flat"])


def test_an_encoder_of_another_dimension_or_with_other_weights_is_refused(
    folders: Any, corpus: Any, other_encoder: Any, new_encoder: Any, tmp_path: Path
) -> None:
    wide = new_encoder(tmp_path / "wide", hidden=48)
    with pytest.raises(DataError, match="has dimension 48, the index 32; open the index with the encoder"):
        DenseRetriever.open(folders["flat"], corpus=corpus, encoder=str(wide))
    with pytest.raises(DataError, match="not those that encoded the index"):
        DenseRetriever.open(folders["flat"], corpus=corpus, encoder=str(other_encoder))


def test_another_convention_is_refused(folders: Any, corpus: Any, plain_encoder: Any) -> None:
    encoder = Encoder(EncoderConfig(model=str(plain_encoder), query_prefix="find: "))
    with pytest.raises(DataError, match=r"encoder\.query_prefix is 'find: ', but the index was built with ''"):
        DenseRetriever.open(folders["flat"], corpus=corpus, encoder=encoder)


def test_an_encoder_that_moved_is_named_anew(corpus: Any, plain_encoder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(plain_encoder, tmp_path / "before")
    build_dense(corpus, index_dir=tmp_path / "d", encoder_config=EncoderConfig(model=str(folder)))
    folder.rename(tmp_path / "after")
    with pytest.raises(ConfigError, match="--encoder, retrieval"):
        DenseRetriever.open(tmp_path / "d", corpus=corpus)
    retriever = DenseRetriever.open(tmp_path / "d", corpus=corpus, encoder=str(tmp_path / "after"))
    assert len(retriever.search(["song"], 3)[0]) == 3


def test_a_manifest_that_contradicts_its_files_is_refused(copy: Any, corpus: Any) -> None:
    folder = copy("sq8")
    record = json.loads((folder / "manifest.json").read_text())
    for change, message in (
        ({"dimension": 64}, "vectors of dimension 32, but the manifest says"),
        ({"kind": "annoy"}, "build the index again"),
        ({"surprise": 1}, "does not describe its index"),
    ):
        index = {**record["parameters"]["index"], **change}
        changed = {**record, "parameters": {**record["parameters"], "index": index}}
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match=message):
            DenseRetriever.open(folder, corpus=corpus)
