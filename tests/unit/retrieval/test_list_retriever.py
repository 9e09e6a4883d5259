"""The fake retriever does what it is told."""

from typing import Any

import pytest

from calibadv.errors import RetrieverError
from calibadv.retrieval import ListRetriever
from calibadv.trajectory import Document

ADA, BOB = (Document(id=name, title=name, text=name) for name in ("ada", "bob"))


def ids(result: Any) -> Any:
    return [[hit.document.id for hit in hits] for hits in result]


def test_a_list_answers_every_query_alike() -> None:
    assert ids(ListRetriever([ADA, BOB]).search(["x", "y"], 1)) == [["ada"], ["ada"]]


def test_a_mapping_answers_known_queries_only() -> None:
    assert ids(ListRetriever({"x": [BOB, ADA]}).search(["x", "y"], 5)) == [["bob", "ada"], []]


def test_a_function_answers_and_may_raise() -> None:
    def answer(query: Any) -> Any:
        if query == "boom":
            raise RetrieverError("gone")
        return [ADA]

    retriever = ListRetriever(answer)
    assert ids(retriever.search(["x"], 3)) == [["ada"]]
    with pytest.raises(RetrieverError, match="gone"):
        retriever.search(["x", "boom"], 3)
    assert retriever.queries == ["x", "x", "boom"]


def test_it_fails_the_first_calls_then_answers() -> None:
    retriever = ListRetriever([ADA], fail_first=2)
    for _ in range(2):
        with pytest.raises(RetrieverError, match="told to fail"):
            retriever.search(["x"], 1)
    assert ids(retriever.search(["x"], 1)) == [["ada"]]


def test_it_fails_on_a_query_and_while_down() -> None:
    retriever = ListRetriever([ADA], fail_on={"bad"})
    with pytest.raises(RetrieverError, match="'bad'"):
        retriever.search(["good", "bad"], 1)
    retriever.down = True
    with pytest.raises(RetrieverError):
        retriever.search(["good"], 1)
    retriever.down = False
    assert ids(retriever.search(["good"], 1)) == [["ada"]]
