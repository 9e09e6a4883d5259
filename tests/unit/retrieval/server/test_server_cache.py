"""The cache of answers: bounded in entries and bytes, documents held once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from calibadv.errors import RetrieverError
from calibadv.retrieval import Hit
from calibadv.retrieval.server.cache import AnswerCache
from calibadv.trajectory import Document


def hits(*ids: str) -> list[Hit]:
    return [Hit(Document(id=i, title=f"T{i}", text="text " * 20), 1.0) for i in ids]


def test_the_answer_used_last_stays() -> None:
    cache = AnswerCache(max_entries=2, max_bytes=10**6)
    cache.add("a", hits("1"))
    cache.add("b", hits("2"))
    assert cache.get("a") is not None
    cache.add("c", hits("3"))
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_a_document_of_two_answers_is_held_once() -> None:
    cache = AnswerCache(max_entries=10, max_bytes=10**6)
    cache.add("a", hits("1", "2"))
    alone = cache.num_bytes
    answer = cache.add("b", hits("2", "1"))
    assert cache.num_bytes - alone < alone / 2
    first = cache.get("a")
    assert first is not None
    assert answer.documents[0] is first.documents[1]


def test_nothing_is_kept_when_the_cache_is_off() -> None:
    for limits in ({"max_entries": 0, "max_bytes": 10}, {"max_entries": 10, "max_bytes": 0}):
        cache = AnswerCache(**limits)
        assert cache.add("a", hits("1")).documents
        assert len(cache) == cache.num_bytes == 0


def test_an_answer_larger_than_the_cache_is_given_out_and_not_kept() -> None:
    cache = AnswerCache(max_entries=10, max_bytes=600)
    assert len(cache.add("a", hits("1", "2", "3")).documents) == 3
    assert len(cache) == cache.num_bytes == 0


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(RetrieverError, match="the score nan"):
        AnswerCache(max_entries=1, max_bytes=1_000).add("a", [Hit(hits("1")[0].document, float("nan"))])


keys = st.integers(0, 5)
found = st.lists(st.sampled_from("abcdef"), max_size=4, unique=True)


@given(st.lists(st.tuples(keys, found), max_size=40), st.integers(1, 4), st.integers(500, 6_000))
def test_the_bounds_hold_and_the_bytes_are_those_of_what_is_held(steps: Any, max_entries: Any, max_bytes: Any) -> None:
    cache = AnswerCache(max_entries=max_entries, max_bytes=max_bytes)
    for key, ids in steps:
        answer = cache.add(key, hits(*ids))
        assert [document.key for document in answer.documents] == ids
        assert len(cache) <= max_entries
        assert cache.num_bytes <= max_bytes
    kept = {key: held for key in range(6) if (held := cache.get(key)) is not None}
    assert len(kept) == len(cache)
    alone = AnswerCache(max_entries=10**6, max_bytes=10**9)
    for key, answer in kept.items():
        alone.add(key, hits(*[document.key for document in answer.documents]))
    assert alone.num_bytes == cache.num_bytes
