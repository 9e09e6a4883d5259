"""Tiny encoders with random weights, and a corpus of made-up documents."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.trajectory import Document

WORDS = re.findall(
    r"\w+",
    """ada wrote the first program engine river city film actor king battle song year born died north south mountain
    painter novel train bridge island harbour church school doctor garden winter summer stone glass""",
)


def make_encoder(folder: Path, *, seed: int = 0, hidden: int = 32) -> Path:
    """A BERT of 2 layers with a word vocabulary."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast  # type: ignore[attr-defined]

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{x}" for x in letters)]
    vocabulary += [*"0123456789", *(f"##{x}" for x in "0123456789"), ":", '"', "."]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    assert tokenizer.tokenize("song ada") == ["song", "ada"]
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def add_modules(folder: Path, *, pooling: str = "mean", prompts: dict[str, str] | None = None) -> Path:
    """Make a sentence-transformers folder of it."""
    types = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(types, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": False for mode in ("cls_token", "max_tokens", "mean_sqrt_len_tokens")}
    modes |= {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    return folder


@pytest.fixture(scope="session")
def plain_encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_encoder(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="session")
def e5_encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_encoder(tmp_path_factory.mktemp("models") / "tiny-e5-v2")


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_encoder(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def modules_encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return add_modules(make_encoder(tmp_path_factory.mktemp("models") / "modules"))


def make_documents(count: int, *, seed: int = 0) -> list[Document]:
    chance = random.Random(seed)
    return [
        Document(
            id=f"d{i}", title=" ".join(chance.choices(WORDS, k=2)), text=" ".join(chance.choices(WORDS, k=8 + i % 9))
        )
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def corpus() -> Any:
    return Corpus.from_documents(make_documents(300))


@pytest.fixture
def new_encoder() -> Any:
    """``new_encoder(folder, seed=0, hidden=32)`` makes one more encoder."""
    return make_encoder


@pytest.fixture
def with_modules() -> Any:
    """``with_modules(folder, prompts={})`` makes a sentence-transformers folder of an encoder."""
    return add_modules


@pytest.fixture
def documents_of() -> Any:
    """``documents_of(count, seed=0)`` makes documents up."""
    return make_documents
