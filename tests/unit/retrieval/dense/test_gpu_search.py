"""Which device compares vectors: FAISS on the CPU unless a GPU is asked for, has room, and is there."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from calibadv.cli.main import main
from calibadv.errors import ConfigError
from calibadv.retrieval.bm25 import build_bm25
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.gpu_search import TorchIndex, gpu_for
from calibadv.retrieval.dense.vector_file import VectorFile
from calibadv.retrieval.open import open_index
from calibadv.retrieval.server import BackendConfig, open_backend


@pytest.fixture(scope="module")
def folder(corpus: Any, plain_encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("indexes")
    build_dense(corpus, index_dir=root / "flat", encoder_config=EncoderConfig(model=str(plain_encoder), device="cpu"))
    return root / "flat"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``gpus(2, free=...)``: torch says that it sees two GPUs with so many free bytes."""

    def see(count: Any, *, free: Any = 80 << 30) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))

    return see


def chosen(wanted: Any, folder: Any) -> Any:
    return gpu_for(wanted, vectors=VectorFile.open(folder / "vectors.faiss"), where=folder)


def test_faiss_searches_on_the_cpu_unless_told_otherwise(folder: Any, corpus: Any, gpus: Any) -> None:
    gpus(1)
    assert not isinstance(open_index(folder, corpus=corpus, device="cpu").index.faiss_index, TorchIndex)  # type: ignore[union-attr]
    assert chosen("cpu", folder) is None


def test_a_gpu_is_taken_when_it_is_named_and_by_auto_when_the_vectors_fit(
    folder: Any, gpus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gpus(2)
    assert [chosen(wanted, folder) for wanted in ("cuda", "cuda:1", "auto")] == ["cuda", "cuda:1", "cuda"]
    assert "are searched on cuda:1, exactly" in caplog.text
    gpus(2, free=1 << 30)
    assert chosen("cuda", folder) == "cuda"
    assert chosen("auto", folder) is None
    assert "is searched on the CPU: its vectors take 0.0 GB on a GPU, and 1.1 GB are free" in caplog.text


def test_auto_means_the_cpu_where_there_is_no_gpu(
    folder: Any, corpus: Any, gpus: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gpus(0)
    retriever = open_index(folder, corpus=corpus, search_device="auto")
    assert not isinstance(retriever.index.faiss_index, TorchIndex)  # type: ignore[union-attr]
    assert "is searched on the CPU: no GPU can be used here" in caplog.text


def test_a_gpu_that_is_not_there_is_an_error_with_the_remedy(folder: Any, gpus: Any) -> None:
    gpus(0)
    with pytest.raises(ConfigError, match="search_device is 'cuda', but no GPU can be used here; set it to"):
        chosen("cuda", folder)
    gpus(2)
    with pytest.raises(ConfigError, match="search_device is 'cuda:2', but there are 2 GPUs, from cuda:0 on"):
        chosen("cuda:2", folder)


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:x", "", "mps"])
def test_other_names_are_refused(folder: Any, wanted: Any) -> None:
    with pytest.raises(ConfigError, match='search_device must be "auto", "cpu" or "cuda'):
        chosen(wanted, folder)


def test_vectors_that_were_not_kept_cannot_be_searched_on_a_gpu(gpus: Any, tmp_path: Path) -> None:
    gpus(1)
    with pytest.raises(
        ConfigError, match="its vectors were not kept; search on the CPU, or build the index with its vectors"
    ):
        gpu_for("cuda", vectors=None, where=tmp_path)
    assert gpu_for("auto", vectors=None, where=tmp_path) is None


def test_words_are_not_searched_on_a_gpu(corpus: Any, tmp_path: Path) -> None:
    build_bm25(corpus, out=tmp_path / "bm25")
    with pytest.raises(ConfigError, match="is a BM25 index, which has no vectors; leave the option out"):
        open_index(tmp_path / "bm25", corpus=corpus, search_device="cuda")
    assert open_index(tmp_path / "bm25", corpus=corpus, search_device="auto").search(["song"], 1)[0]


def test_the_server_and_the_commands_take_the_option(
    folder: Any, corpus: Any, gpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus(0)
    corpus.write(tmp_path / "corpus.jsonl")
    (tmp_path / "questions.jsonl").write_text('{"id": "1", "question": "song", "golden_answers": ["song"]}\n')
    config = BackendConfig(index=folder, corpus=tmp_path / "corpus.jsonl", search_device="cuda")
    with pytest.raises(ConfigError, match="no GPU can be used here"):
        open_backend(config, lambda stage: None)
    command = ["index", "recall", str(folder), "--corpus", str(tmp_path / "corpus.jsonl")]
    command += ["--questions", str(tmp_path / "questions.jsonl")]
    assert main([*command, "--search-device", "cuda"]) == 2
    assert "search_device is 'cuda', but no GPU" in capsys.readouterr().err
    assert main([*command, "--search-device", "auto"]) == 0
    serve = ["retriever", "serve", str(folder), "--corpus", str(tmp_path / "corpus.jsonl"), "--port", "0"]
    assert main([*serve, "--search-device", "cuda"]) == 2
    assert "search_device is 'cuda', but no GPU" in capsys.readouterr().err
