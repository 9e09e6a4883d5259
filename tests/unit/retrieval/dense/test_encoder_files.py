"""An index whose encoder has moved: opened with the place that is named, and only with the same encoder."""

from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.errors import ConfigError, DataError
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.config import RetrievalConfig
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.open import check_index, open_index, open_retriever
from calibadv.retrieval.server import BackendConfig, open_backend


@pytest.fixture
def moved(corpus: Any, new_encoder: Any, tmp_path: Path) -> Any:
    """(index, encoder, corpus): the encoder is no longer where it was when the index was built."""
    model = new_encoder(tmp_path / "built")
    build_dense(corpus, index_dir=tmp_path / "dense", encoder_config=EncoderConfig(model=str(model), device="cpu"))
    corpus.write(tmp_path / "corpus.jsonl")
    return tmp_path / "dense", model.rename(tmp_path / "moved"), tmp_path / "corpus.jsonl"


def test_an_index_without_its_encoder_says_how_to_name_it(moved: Any) -> None:
    index, _, corpus = moved
    with pytest.raises(ConfigError, match=r"name where it is \(--encoder, retrieval\.encoder\)"):
        open_index(index, corpus=corpus)


def test_what_an_index_needs_is_missed_before_anything_is_loaded(moved: Any) -> None:
    index, encoder, corpus = moved
    with pytest.raises(ConfigError, match=r"its encoder is not at .* any more; name where it is \(--encoder"):
        check_index(index, corpus=corpus)
    assert check_index(index, corpus=corpus, encoder=encoder).method == "dense"
    with pytest.raises(ConfigError, match=r"its manifest does not say where the corpus is; name it \(--corpus\)"):
        check_index(index, encoder=encoder)


def test_the_encoder_may_be_named_in_python_a_config_and_a_server(moved: Any) -> None:
    index, encoder, corpus = moved
    hits = open_index(index, corpus=corpus, encoder=encoder).search(["glass garden"], 3)
    assert len(hits[0]) == 3
    config = RetrievalConfig(corpus=corpus, method="dense", index_dir=index, encoder=encoder)
    assert open_retriever(config, top_k=3).search(["glass garden"], 3) == hits
    backend = open_backend(BackendConfig(index=index, corpus=corpus, encoder=str(encoder)), lambda stage: None)
    assert backend.retriever.search(["glass garden"], 3) == hits


def test_the_commands_take_it_too(moved: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, encoder, corpus = moved
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "song", "golden_answers": ["song"]}\n')
    for tool in ("recall", "audit"):
        command = ["index", tool, str(index), "--corpus", str(corpus), "--questions", str(tmp_path / "q.jsonl")]
        assert main(command) == 2
        assert "--encoder" in capsys.readouterr().err
        assert main([*command, "--encoder", str(encoder)]) == 0
    assert main(["retriever", "serve", str(index), "--corpus", str(corpus), "--port", "0", "--encoder", "./no"]) == 2
    assert "the encoder's model ./no: no such folder" in capsys.readouterr().err


def test_verify_compares_with_the_encoder_that_is_named(
    moved: Any, other_encoder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    index, encoder, corpus = moved
    command = ["index", "verify", str(index), "--corpus", str(corpus)]
    assert main(command) == 2
    assert main([*command, "--encoder", str(other_encoder)]) == 2
    capsys.readouterr()
    assert main([*command, "--encoder", str(encoder)]) == 0
    assert f"ok     encoder         {encoder}" in capsys.readouterr().out


def test_another_encoder_is_refused(moved: Any, other_encoder: Any) -> None:
    index, _, corpus = moved
    with pytest.raises(DataError, match="not those that encoded the index"):
        open_index(index, corpus=corpus, encoder=other_encoder)


def test_what_has_no_encoder_refuses_one(moved: Any, corpus: Any, tmp_path: Path) -> None:
    build_bm25(corpus, out=tmp_path / "bm25")
    with pytest.raises(ConfigError, match="is a BM25 index, which has none; leave the option out"):
        open_index(tmp_path / "bm25", corpus=corpus, encoder=moved[1])
    with pytest.raises(ConfigError, match=r"retrieval\.encoder belongs to a dense index; retrieval\.url does not"):
        RetrievalConfig(url="http://127.0.0.1:8000", encoder="a/b")
