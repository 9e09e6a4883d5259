"""Opening indexes by their manifest, verifying them, and the [retrieval] section of a run."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from calibadv.config import RunConfig
from calibadv.config.run_folder import check_same_run
from calibadv.errors import ConfigError, DataError
from calibadv.io.retry import NO_RETRY
from calibadv.retrieval import BM25Config, BM25Retriever, Corpus, RetrievalConfig, open_retriever
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.config import RemoteConfig, RerankConfig
from calibadv.retrieval.corpus.importing import import_corpus
from calibadv.retrieval.index.verify import verify_index
from calibadv.retrieval.open import open_index
from calibadv.retrieval.web import WebSearchConfig

pytest.importorskip("tantivy")

ROWS = [
    {"id": "ada", "title": "Ada Lovelace", "text": "wrote the first program"},
    {"id": "babbage", "title": "Charles Babbage", "text": "designed the analytical engine"},
    {"id": "hopper", "title": "Grace Hopper", "text": "wrote a compiler"},
]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.fixture
def corpus_dir(tmp_path: Path, file: Any) -> Any:
    import_corpus([str(file)], out=tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def index_dir(corpus_dir: Any) -> Any:
    build_bm25(Corpus.open(corpus_dir), out=corpus_dir / "bm25")
    return corpus_dir / "bm25"


def found(retriever: Any, query: Any = "wrote", k: Any = 2) -> Any:
    return [hit.document.id for hit in retriever.search([query], k)[0]]


def test_an_index_finds_its_corpus_by_itself_also_where_both_have_moved(
    tmp_path: Path, corpus_dir: Any, index_dir: Any
) -> None:
    assert found(open_index(index_dir)) == ["hopper", "ada"]
    corpus_dir.rename(tmp_path / "moved")
    assert found(open_index(str(tmp_path / "moved" / "bm25"))) == ["hopper", "ada"]


def test_a_corpus_elsewhere_is_named_as_a_path_or_opened(
    tmp_path: Path, corpus_dir: Any, index_dir: Any, file: Any
) -> None:
    index_dir = index_dir.rename(tmp_path / "alone")
    with pytest.raises(DataError, match=r"its corpus is not at .* any more; name its new place \(--corpus\)"):
        open_index(index_dir)
    for corpus in (corpus_dir, str(corpus_dir), Corpus.open(corpus_dir), file):
        assert found(open_index(index_dir, corpus=corpus)) == ["hopper", "ada"]
    file.write_text(json.dumps(ROWS[0]) + "\n", "utf-8")
    with pytest.raises(DataError, match="the corpus has 1 documents, the index 3"):
        open_index(index_dir, corpus=file)


def test_what_is_no_index_says_so(tmp_path: Path, corpus_dir: Any) -> None:
    with pytest.raises(DataError, match="no such folder; make an index"):
        open_index(tmp_path / "absent")
    with pytest.raises(DataError, match="is a corpus, not an index; make one: calibadv index build"):
        open_index(corpus_dir)
    build_bm25(Corpus.open(corpus_dir), out=corpus_dir / "bm25")
    with pytest.raises(DataError, match=r"is a corpus, not an index; name one of its indexes \(bm25\)"):
        open_index(corpus_dir)


def problems(checks: Any) -> Any:
    return {check.name: check.problem for check in checks if not check.ok}


def test_a_whole_index_passes_every_check(index_dir: Any) -> None:
    checks = verify_index(index_dir)
    assert [check.name for check in checks] == ["corpus", "files", "engine"]
    assert not problems(checks)
    assert "3 documents" in checks[0].figures


def test_a_byte_that_changed_is_found(index_dir: Any) -> None:
    (path,) = (index_dir / "tantivy").glob("*.idx")
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert "has changed; copy it again or build it again" in problems(verify_index(index_dir))["files"]


def test_documents_that_changed_under_an_index_are_found(corpus_dir: Any, index_dir: Any) -> None:
    path = corpus_dir / "documents.arrow"
    path.write_bytes(path.read_bytes().replace(b"compiler", b"computer"))
    assert problems(verify_index(index_dir)).keys() == {"corpus"}


def test_a_lost_corpus_does_not_hide_other_problems(tmp_path: Path, index_dir: Any) -> None:
    index_dir = index_dir.rename(tmp_path / "alone")
    next((index_dir / "tantivy").glob("*.term")).unlink()
    assert problems(verify_index(index_dir)).keys() == {"corpus", "files", "engine"}
    with pytest.raises(DataError, match="not an index"):
        verify_index(tmp_path)


def test_a_run_names_exactly_one_source() -> None:
    sources = (  # type: ignore[var-annotated]
        ({}, "none"),
        ({"corpus": "a", "index": "b"}, "corpus and index"),
        ({"index": "b", "url": "http://x"}, "index and url"),
        ({"url": ()}, "none"),
    )
    for settings, got in sources:
        with pytest.raises(ConfigError, match=rf"exactly one of retrieval\.corpus .* got {got}$"):
            RetrievalConfig(**settings)
    with pytest.raises(ConfigError, match=r"retrieval\.index_dir belongs to retrieval\.corpus"):
        RetrievalConfig(index="b", index_dir="c")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("RerankConfig", {"candidates": 0}, r"retrieval\.rerank\.candidates must be >= 1, got 0"),
        ("RemoteConfig", {"timeout_s": 0.0}, r"retrieval\.remote\.timeout_s must be > 0, got 0"),
        ("RemoteConfig", {"wait_s": float("nan")}, r"retrieval\.remote\.wait_s must be a finite number, got nan"),
    ],
)
def test_impossible_settings_are_refused_by_name(section: Any, settings: Any, message: str) -> None:
    import calibadv.retrieval.config

    with pytest.raises(ConfigError, match=message):
        getattr(calibadv.retrieval.config, section)(**settings)


def test_a_run_may_name_a_file_a_corpus_folder_or_an_index(file: Any, corpus_dir: Any, index_dir: Any) -> None:
    for config in (RetrievalConfig(corpus=file), RetrievalConfig(corpus=corpus_dir), RetrievalConfig(index=index_dir)):
        retriever = open_retriever(config, top_k=2)
        assert found(retriever) == ["hopper", "ada"]
        assert retriever.manifest()["num_documents"] == 3
        with pytest.raises(ConfigError, match=r"rollout\.top_k must be <= .* \(3\), got 4"):
            open_retriever(config, top_k=4)


def test_an_index_of_a_corpus_folder_is_used_and_not_built_again(
    corpus_dir: Any, index_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BM25Retriever, "from_documents", None)
    assert found(open_retriever(RetrievalConfig(corpus=corpus_dir), top_k=2)) == ["hopper", "ada"]
    with pytest.raises(ConfigError, match="was built with BM25Config"):
        open_retriever(RetrievalConfig(corpus=corpus_dir, bm25=BM25Config(stop_words="none")), top_k=2)


def test_an_index_folder_is_built_at_first_use_and_opened_then(tmp_path: Path, file: Any) -> None:
    config = RetrievalConfig(corpus=file, index_dir=tmp_path / "index")
    first = open_retriever(config, top_k=2)
    stamp = (tmp_path / "index" / "manifest.json").stat().st_mtime_ns
    assert open_retriever(config, top_k=2).search(["wrote"], 2) == first.search(["wrote"], 2)
    assert (tmp_path / "index" / "manifest.json").stat().st_mtime_ns == stamp


def test_dense_and_hybrid_need_their_index(file: Any, corpus_dir: Any, index_dir: Any) -> None:
    for method in ("dense", "hybrid"):
        with pytest.raises(ConfigError, match=f"there is none; make one: calibadv index build .* --method {method}"):
            open_retriever(RetrievalConfig(corpus=file, method=method), top_k=2)
        with pytest.raises(ConfigError, match=rf"there is none in .*{method}; make one"):
            open_retriever(RetrievalConfig(corpus=corpus_dir, method=method), top_k=2)
    with pytest.raises(ConfigError, match=r'is a bm25 index, and retrieval\.method is "dense"'):
        open_retriever(RetrievalConfig(corpus=corpus_dir, method="dense", index_dir=index_dir), top_k=2)


def test_a_large_corpus_in_memory_earns_a_warning(
    file: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("calibadv.retrieval.open.WORTH_AN_INDEX", 2)
    with caplog.at_level(logging.WARNING):
        open_retriever(RetrievalConfig(corpus=file), top_k=2)
    assert "calibadv index build does it once" in caplog.text


def test_web_search_is_opened_with_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "s3cret")
    web = WebSearchConfig(cache=tmp_path / "web.sqlite", per_second=2.0, parameters=("gl=us", "q2=a=b"))
    retriever = open_retriever(RetrievalConfig(online="serper", web=web), top_k=3)
    assert (retriever.provider.name, retriever.config.cache) == ("serper", tmp_path / "web.sqlite")  # type: ignore[attr-defined]
    assert retriever.config.fields == {"gl": "us", "q2": "a=b"}  # type: ignore[attr-defined]
    assert retriever.manifest()["provider"] == "serper"
    assert "s3cret" not in str(retriever.manifest()) + str(vars(retriever))
    retriever.close()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"rollout.top_k must be <= 100 for serper, got 101"):
        open_retriever(RetrievalConfig(online="serper"), top_k=101)
    with pytest.raises(ConfigError, match=r"retrieval.rerank.candidates must be <= 100 for serper, got 150"):
        open_retriever(RetrievalConfig(online="serper", rerank=RerankConfig(model="m", candidates=150)), top_k=3)
    monkeypatch.delenv("SERPER_API_KEY")
    with pytest.raises(ConfigError, match="SERPER_API_KEY"):
        open_retriever(RetrievalConfig(online="serper"), top_k=3)


def test_a_resumed_run_keeps_its_provider_but_may_move_its_cache(tmp_path: Path) -> None:
    run = {"model": {"path": "m"}, "retrieval": {"online": "serper", "web": {"cache": "a.sqlite"}}}
    (tmp_path / "config.toml").write_text(RunConfig.from_mapping(run).to_toml())
    moved = RunConfig.from_mapping(run, overrides=["retrieval.web.cache=b.sqlite", "retrieval.web.per_second=2"])
    check_same_run(moved, tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"retrieval.online was 'serper', is 'serpapi'"):
        check_same_run(RunConfig.from_mapping(run, overrides=["retrieval.online=serpapi"]), tmp_path / "config.toml")


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"per_second": 0}, {"parameters": ("gl",)}])
def test_wrong_settings_of_web_search_are_named(settings: Any) -> None:
    with pytest.raises(ConfigError, match=rf"retrieval\.web\.{next(iter(settings))}"):
        WebSearchConfig(**settings)


def test_servers_and_a_reranker_are_opened_with_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import calibadv.retrieval.client.retriever
    import calibadv.retrieval.rerank

    seen = []

    class Remote:
        def __init__(self, urls: Any, **settings: Any) -> None:
            seen.append((urls, settings))

        def wait_until_ready(self, timeout_s: Any) -> None:
            seen.append(timeout_s)

    class Reranker:
        def __init__(self, model: Any, **settings: Any) -> None:
            seen.append((model, settings))

    monkeypatch.setattr(calibadv.retrieval.client.retriever, "RemoteRetriever", Remote)
    monkeypatch.setattr(calibadv.retrieval.rerank, "CrossEncoderReranker", Reranker)
    config = RetrievalConfig(
        url=("http://a", "http://b"),
        device="cpu",
        remote=RemoteConfig(dialect="calibadv", wait_s=5.0),
        rerank=RerankConfig(model="my/model", candidates=7, batch_size=3),
    )
    retriever = open_retriever(config, top_k=1000)
    assert seen[0] == (("http://a", "http://b"), {"dialect": "calibadv", "timeout_s": 60.0, "retry": NO_RETRY})
    assert seen[1:] == [5.0, ("my/model", {"device": "cpu", "max_length": 512, "batch_size": 3})]
    assert (retriever.candidates, type(retriever.retriever)) == (7, Remote)  # type: ignore[attr-defined]
    assert RetrievalConfig(url="http://a").urls == ("http://a",)


@pytest.mark.parametrize(
    "change",
    [{"corpus": 1}, {"corpus_sha256": None}, {"num_documents": "3"}, {"parameters": []}, {"versions": 1}],
)
def test_a_manifest_with_values_of_other_types_is_refused(index_dir: Any, change: Any) -> None:
    record = json.loads((index_dir / "manifest.json").read_text())
    (index_dir / "manifest.json").write_text(json.dumps({**record, **change}))
    for use in (open_index, verify_index):
        with pytest.raises(DataError, match="not an index manifest"):
            use(index_dir)
