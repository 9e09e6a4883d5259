"""Re-ranking: order, ties, duplicate pairs, and which models are refused. The cross-encoder is tiny and random."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, RetrieverError
from calibadv.retrieval import Hit, ListRetriever, rerank
from calibadv.retrieval.rerank import CrossEncoderReranker, RerankedRetriever, rerank_text
from calibadv.trajectory import Document

DOCUMENTS = [Document(id=str(i), title=f"T{i}", text="word " * (i % 7 + 1)) for i in range(10)]


class LengthReranker:
    """Longer texts are better."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def score(self, pairs: Any) -> Any:
        self.calls.append(list(pairs))
        return [float(len(document.text)) for _, document in pairs]

    def manifest(self) -> Any:
        return {"model": "/somewhere/length", "fingerprint": "1"}


def ids(hits: Any) -> Any:
    return [hit.document.id for hit in hits]


def test_candidates_come_by_the_score_of_the_reranker_and_ties_by_retrieval_order() -> None:
    reranked = RerankedRetriever(ListRetriever(DOCUMENTS), LengthReranker(), candidates=10)
    (hits,) = reranked.search(["q"], 5)
    assert ids(hits) == ["6", "5", "4", "3", "2"]
    (hits,) = reranked.search(["q"], 10)
    assert ids(hits)[-4:] == ["1", "8", "0", "7"]
    assert hits[0].score == 35.0


def test_only_the_candidates_are_read_and_more_when_more_are_wanted() -> None:
    reranked = RerankedRetriever(ListRetriever(DOCUMENTS), LengthReranker(), candidates=3)
    assert ids(reranked.search(["q"], 2)[0]) == ["2", "1"]
    assert len(reranked.search(["q"], 8)[0]) == 8


def test_equal_queries_are_searched_and_scored_once_in_one_call() -> None:
    retriever, reranker = ListRetriever(DOCUMENTS), LengthReranker()
    found = RerankedRetriever(retriever, reranker, candidates=2).search(["a", "b", "a"], 1)
    assert retriever.calls == [("a", "b")]
    assert len(reranker.calls) == 1
    assert len(reranker.calls[0]) == 4
    assert found[0] == found[2]


def test_a_query_that_finds_nothing_stays_empty_and_a_failed_search_stays_an_error() -> None:
    retriever = ListRetriever({"a": DOCUMENTS[:2]})
    assert RerankedRetriever(retriever, LengthReranker()).search(["none", "a"], 1)[0] == []
    retriever.down = True
    with pytest.raises(RetrieverError):
        RerankedRetriever(retriever, LengthReranker()).search(["a"], 1)


def test_no_queries_find_nothing() -> None:
    assert RerankedRetriever(ListRetriever(DOCUMENTS), LengthReranker()).search([], 1) == []


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"candidates must be >= 1, got 0"):
        RerankedRetriever(ListRetriever([]), LengthReranker(), candidates=0)
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        RerankedRetriever(ListRetriever([]), LengthReranker()).search(["q"], 0)


def test_the_version_depends_on_the_model_and_the_candidates_not_on_where_the_model_lies() -> None:
    def version(candidates: Any = 20, **described: Any) -> Any:
        reranker = LengthReranker()
        reranker.manifest = lambda: {"model": "/somewhere", "fingerprint": "1", **described}  # type: ignore[method-assign]
        return RerankedRetriever(ListRetriever([]), reranker, candidates=candidates).version

    assert version() == version(model="/elsewhere")
    assert len({version(), version(candidates=3), version(fingerprint="2")}) == 3
    manifest = RerankedRetriever(ListRetriever([]), LengthReranker()).manifest()
    assert manifest["reranker"]["fingerprint"] == "1"
    assert manifest["retriever"] == {"method": "ListRetriever"}


def test_the_text_of_a_document_has_its_title_in_quotes() -> None:
    assert rerank_text(DOCUMENTS[0]) == '(Title: "T0") word '


# With a model


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")

    def make(kind: Any = "BertForSequenceClassification", *, num_labels: Any = 1, seed: Any = 0) -> Any:
        folder = tmp_path_factory.mktemp("model")
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "title", "t", "q", "a", "b", "(", ")", ":", '"']
        (folder / "vocab.txt").write_text("\n".join([*words, *"0123456789", *(f"##{n}" for n in range(10))]))
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=64, num_labels=num_labels, initializer_range=0.5,
        )  # fmt: skip
        getattr(transformers, kind)(config).save_pretrained(folder)
        transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def reranker(make_model: Any) -> Any:
    return CrossEncoderReranker(make_model(), device="cpu", max_length=64, batch_size=4)


def test_scores_come_in_the_order_of_the_pairs_and_do_not_depend_on_their_company(reranker: Any) -> None:
    pairs = [(query, document) for document in DOCUMENTS for query in ("q a", "b")]
    scores = reranker.score(pairs)
    assert len(set(scores)) > 5
    for pair, score in zip(pairs, scores, strict=True):
        assert reranker.score([pair])[0] == pytest.approx(score, abs=1e-5)
    assert reranker.score(pairs[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert reranker.score([]) == []


def test_equal_pairs_are_scored_once_and_batches_hold_pairs_of_similar_length(
    reranker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    original = reranker._score_batch
    monkeypatch.setattr(reranker, "_score_batch", lambda texts: batches.append(texts) or original(texts))  # type: ignore[func-returns-value]
    scores = reranker.score([("q", document) for document in [*DOCUMENTS, *DOCUMENTS]])
    assert sum(map(len, batches)) == 10
    assert scores[:10] == scores[10:]
    lengths = [len(text) for batch in batches for _, text in batch]
    assert lengths == sorted(lengths)


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    reranker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    sizes = []
    original = reranker._encoder.predict

    def predict(texts: Any, **options: Any) -> Any:
        sizes.append(len(texts))
        if len(texts) > 2:
            raise torch.OutOfMemoryError("no memory")
        return original(texts, **options)

    expected = reranker.score([("q", document) for document in DOCUMENTS])
    monkeypatch.setattr(reranker._encoder, "predict", predict)
    with caplog.at_level(logging.WARNING):
        assert reranker.score([("q", document) for document in DOCUMENTS]) == pytest.approx(expected, abs=1e-5)
    assert max(sizes) == 4
    assert "halving it" in caplog.text


def test_saturated_scores_are_no_ties(reranker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    logits = iter([[18.0, 19.0]])
    monkeypatch.setattr(reranker._encoder, "predict", lambda texts, **options: np.array(next(logits), np.float32))
    first, second = reranker.score([("q", DOCUMENTS[0]), ("q", DOCUMENTS[1])])
    assert first < second < 1.0


def test_a_score_that_is_no_number_is_an_error(reranker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(reranker._encoder, "predict", lambda texts, **options: np.full(len(texts), np.nan))
    with pytest.raises(RetrieverError, match="not a number"):
        reranker.score([("q", DOCUMENTS[0])])


def test_no_progress_bar_is_drawn(
    reranker: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reranker.score([("q", document) for document in DOCUMENTS])
    assert capfd.readouterr() == ("", "")


def test_models_of_equal_shape_have_fingerprints_of_their_own(make_model: Any, reranker: Any) -> None:
    other = CrossEncoderReranker(make_model(seed=1), device="cpu", max_length=64)
    same = CrossEncoderReranker(make_model(), device="cpu", max_length=64)
    assert other.manifest()["fingerprint"] != reranker.manifest()["fingerprint"]
    assert same.manifest()["fingerprint"] == reranker.manifest()["fingerprint"]


def test_an_encoder_without_a_trained_head_is_refused(make_model: Any) -> None:
    with pytest.raises(ConfigError, match="is a BertModel and has no trained classification head"):
        CrossEncoderReranker(make_model("BertModel"), device="cpu")


def test_a_classifier_of_several_classes_is_refused(make_model: Any) -> None:
    with pytest.raises(ConfigError, match="gives 3 numbers a pair, a re-ranker gives one"):
        CrossEncoderReranker(make_model(num_labels=3), device="cpu")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ConfigError, match="neither a folder nor a hub id"):
        CrossEncoderReranker(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot load the re-ranker"):
        CrossEncoderReranker(tmp_path / "empty")


def test_a_model_that_breaks_off_is_an_error_that_says_what_to_do(make_model: Any) -> None:
    weights = make_model() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"cannot load the re-ranker .*fetch it again"):
        CrossEncoderReranker(weights.parent, device="cpu")


@pytest.mark.parametrize("device", ["tpu9", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error(make_model: Any, device: str) -> None:
    with pytest.raises(ConfigError, match=f"the re-ranker's device (must be|is) .*{device}"):
        CrossEncoderReranker(make_model(), device=device)


def test_a_model_is_loaded_without_a_progress_bar(make_model: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_model()
    capfd.readouterr()
    CrossEncoderReranker(folder, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_hub_out_of_reach_is_asked_once_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"the re-ranker no/reranker: .*HF_HUB_OFFLINE is set.*HF_ENDPOINT"):
        CrossEncoderReranker("no/reranker")


@pytest.mark.parametrize("has_safetensors", [True, False])
def test_a_hub_model_is_fetched_without_pickled_weights_unless_it_has_no_others(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_safetensors: Any
) -> None:
    snapshot = tmp_path / "0123abc"
    shutil.copytree(make_model(), snapshot)
    if not has_safetensors:
        (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda model, *, allow_patterns, **which: asked.append(allow_patterns) or snapshot,  # type: ignore[func-returns-value]
    )
    monkeypatch.setattr("calibadv.io.hub.check_reachable", lambda endpoint: None)
    monkeypatch.setattr(rerank, "hub_folder", rerank.hub_folder.__wrapped__)  # type: ignore[attr-defined]
    folder = rerank._model_folder("owner/model")
    assert folder == snapshot
    assert ["*.bin" in patterns for patterns in asked] == ([False] if has_safetensors else [False, True])


def test_numbers_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"rerank.batch_size must be >= 1, got 0"):
        CrossEncoderReranker("no/model", batch_size=0)


def test_hits_keep_their_documents() -> None:
    (hits,) = RerankedRetriever(ListRetriever(DOCUMENTS), LengthReranker()).scored(["q"], 2)
    assert hits == [Hit(DOCUMENTS[0], 5.0), Hit(DOCUMENTS[1], 10.0)]
