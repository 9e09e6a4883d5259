"""Retrievers from outside: opened by import path, their results checked, their failures failed searches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, RetrieverError, RetrieverUnavailable
from calibadv.retrieval import Hit, ListRetriever, RetrievalConfig, open_retriever
from calibadv.retrieval.open import opened_retriever
from calibadv.retrieval.plugin import PluginRetriever, checked
from calibadv.retrieval.rerank import RerankedRetriever, Reranker
from calibadv.trajectory import Document

ADA = Document(id="d1", title="Ada", text="Ada wrote programs.")


class Answering:
    """A retriever that returns, or raises, what it is told."""

    def __init__(self, answer: Callable[[Sequence[str]], Any]) -> None:
        self.answer = answer

    def search(self, queries: Sequence[str], k: int) -> Any:
        return self.answer(queries)


def test_plain_pairs_are_hits_and_no_more_than_asked_for_come_back() -> None:
    retriever = PluginRetriever(Answering(lambda queries: [[(ADA, 1)] * 5 for _ in queries]))
    assert retriever.search(["ada", "bob"], 2) == [[Hit(ADA, 1.0)] * 2] * 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda queries: [[]], "returned 1 lists for 2 queries"),
        (lambda queries: None, "returned NoneType for 2 queries"),
        (lambda queries: [["text"], []], r"returned \['text'\] for a query; return a list of calibadv.retrieval.Hit"),
        (lambda queries: [[("text", 1.0)], []], r"returned .* for a query; return a list of"),
    ],
)
def test_a_wrong_shape_names_the_setting(answer: Callable[[Sequence[str]], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"retrieval.retriever .*Answering' {message}"):
        PluginRetriever(Answering(answer)).search(["ada", "bob"], 3)


def test_what_it_raises_is_a_failed_search_and_our_own_errors_stay_what_they_are() -> None:
    def fail(error: Exception) -> Callable[[Sequence[str]], Any]:
        def answer(queries: Sequence[str]) -> Any:
            raise error

        return answer

    with pytest.raises(RetrieverError, match=r"Answering raised TimeoutError: too slow"):
        PluginRetriever(Answering(fail(TimeoutError("too slow")))).search(["ada"], 1)
    with pytest.raises(RetrieverUnavailable, match="gone"):
        PluginRetriever(Answering(fail(RetrieverUnavailable("gone")))).search(["ada"], 1)


def test_a_retriever_without_a_search_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retrieval.retriever .*its search must be callable as search\(queries, k\)"):
        PluginRetriever(object())  # type: ignore[arg-type]


def test_ours_are_used_as_they_are() -> None:
    retriever = ListRetriever([ADA])
    assert checked(retriever) is retriever


def test_a_config_names_a_class_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_page.py").write_text(
        "from calibadv.trajectory import Document\n"
        "class OnePage:\n"
        "    def search(self, queries, k):\n"
        "        return [[(Document(id='p', title='Page', text=q), 1.0)] for q in queries]\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    retriever = open_retriever(RetrievalConfig(retriever="one_page:OnePage"), top_k=1)
    assert retriever.search(["ada"], 1)[0][0].document.text == "ada"
    assert retriever.manifest() == {"method": "plugin", "object": "one_page:OnePage"}
    assert len(retriever.version) == 64


def test_a_path_that_gives_no_retriever_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retrieval.retriever must be callable as retriever\(\)"):
        open_retriever(RetrievalConfig(retriever="math:gcd.__self__"), top_k=1)


class Closable(Answering):
    """A retriever with something to close."""

    closed = 0

    def __init__(self) -> None:
        super().__init__(lambda queries: [[(ADA, 1.0)] for _ in queries])

    def close(self) -> None:
        Closable.closed += 1


class Halves(Reranker):
    """Leaves the order as it is."""

    def score(self, pairs: Sequence[tuple[str, Document]]) -> list[float]:
        return [0.5] * len(pairs)

    def manifest(self) -> dict[str, Any]:
        return {"model": "none"}


def test_what_was_opened_is_closed_and_what_was_given_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Closable, "closed", 0)
    config = RetrievalConfig(retriever=f"{__name__}:Closable")
    with opened_retriever(config, top_k=1) as retriever:
        assert retriever.search(["ada"], 1) == [[Hit(ADA, 1.0)]]
        assert Closable.closed == 0
    assert Closable.closed == 1
    with pytest.raises(ValueError, match="stops"), opened_retriever(config, top_k=1):
        raise ValueError("stops")
    assert Closable.closed == 2
    with opened_retriever(config, top_k=1, given=Closable()):
        pass
    assert Closable.closed == 2
    RerankedRetriever(PluginRetriever(Closable()), Halves()).close()
    assert Closable.closed == 3
    RerankedRetriever(PluginRetriever(Answering(lambda queries: [])), Halves()).close()
