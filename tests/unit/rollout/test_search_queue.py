"""The search queue: batches, retries within one deadline, and whose fault a failure is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from calibadv.errors import RetrieverError, RetrieverUnavailable
from calibadv.io.clock import FakeClock
from calibadv.retrieval.base import Hit
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import RolloutConfig, RolloutResult
from calibadv.rollout.search_queue import Outcome, SearchQueue
from calibadv.trajectory import Document, StopReason

SEARCH = "</think><search>{}</search>"
ANSWER = "</think><answer>{}</answer>"
Play = Callable[..., RolloutResult]


class Failing(ListRetriever):
    """Fails ``times`` times with ``error``, for every query or for some."""

    def __init__(self, error: RetrieverError, *, times: int = 10**9, on: str | None = None) -> None:
        super().__init__([])
        self.error = error
        self.times = times
        self.on = on

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = super().search(queries, k)
        if self.times > 0 and (self.on is None or self.on in queries):
            self.times -= 1
            raise self.error
        return found


def searched(
    retriever: ListRetriever, *queries: str, clock: FakeClock | None = None, **config: float
) -> dict[str, Outcome]:
    queue = SearchQueue(retriever, config=RolloutConfig(**config), clock=clock or FakeClock())  # type: ignore[arg-type]
    for number, query in enumerate(queries):
        queue.add(number, query, top_k=3, tick=0)
    queue.submit(tick=0, now=True)
    (batch,) = queue.in_flight
    try:
        batch.future.exception(timeout=20)
        return queue.take(batch)
    finally:
        queue.close()


def busy(retry_after_s: float | None = None) -> RetrieverError:
    return RetrieverError("busy", is_transient=True, retry_after_s=retry_after_s)


def test_queries_within_the_window_go_in_one_call_and_equal_ones_once(play: Play, documents: list[Document]) -> None:
    retriever = ListRetriever(documents)
    scripts = [[SEARCH.format(query), ANSWER.format("x")] for query in ("a", "b", "a", "a")]
    result = play(scripts, retriever=retriever)
    assert retriever.calls == [("a", "b")]
    assert (result.counters["searches"], result.counters["distinct_queries"]) == (4, 2)
    assert len({t.turns[0].observation for t in result.trajectories}) == 1


def test_a_longer_window_makes_fewer_calls(play: Play) -> None:
    scripts = [[SEARCH.format(f"{i} {j}") for j in range(3)] + [ANSWER.format("x")] for i in range(8)]
    calls = [
        play(scripts, search_window=window, search_overlap=2, max_rows=2).counters["search_calls"] for window in (1, 4)
    ]
    assert calls[1] < calls[0]


def test_the_default_outlasts_a_server_that_is_away_for_four_minutes() -> None:
    class Away(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            if clock.now() < 240:
                raise busy()
            return super().search(queries, k)

    clock = FakeClock()
    assert searched(Away([]), "a", clock=clock) == {"a": []}
    assert 240 <= clock.now() < 300


def test_a_transient_failure_is_retried_until_the_deadline_and_then_the_retriever_is_away() -> None:
    clock = FakeClock()
    with pytest.raises(RetrieverUnavailable, match=r"rollout\.search_timeout_s = 100\.0\): busy"):
        searched(Failing(busy()), "a", clock=clock, search_timeout_s=100.0)
    assert 60 < sum(clock.waits) < 100


def test_all_servers_waits_count_as_the_server_asks() -> None:
    clock = FakeClock()
    searched(Failing(busy(7.0), times=2), "a", clock=clock)
    assert [wait // 1 for wait in clock.waits] == [7.0, 7.0]


def test_a_failure_of_unknown_kind_is_retried_a_few_times_only() -> None:
    retriever = Failing(RetrieverError("odd"))
    with pytest.raises(RetrieverUnavailable, match="odd"):
        searched(retriever, "a")
    assert len(retriever.calls) == 4


def test_a_final_failure_is_not_retried() -> None:
    retriever = Failing(RetrieverError("no such path", is_transient=False))
    with pytest.raises(RetrieverUnavailable, match="no such path"):
        searched(retriever, "a")
    assert len(retriever.calls) == 1


def test_without_retries_there_is_one_attempt() -> None:
    retriever = Failing(busy(), times=1)
    with pytest.raises(RetrieverUnavailable, match=r"search_retries = 0"):
        searched(retriever, "a", search_retries=0)
    assert len(retriever.calls) == 1


def test_of_a_batch_only_the_query_that_fails_is_lost() -> None:
    found = searched(Failing(RetrieverError("too long", is_transient=False), on="bad"), "good", "bad", "fine")
    assert (found["good"], found["fine"]) == ([], [])
    assert "too long" in str(found["bad"])


def test_without_a_good_query_one_failing_search_means_the_retriever_is_away(play: Play) -> None:
    with pytest.raises(RetrieverUnavailable):
        play([[SEARCH.format("a")]], retriever=ListRetriever([], fail_on={"a"}))


def test_a_retriever_that_says_it_is_away_is_not_asked_again() -> None:
    retriever = Failing(RetrieverUnavailable("gone"))
    with pytest.raises(RetrieverUnavailable, match="gone"):
        searched(retriever, "a", search_retries=5)
    assert len(retriever.calls) == 1


def test_a_retriever_that_answers_too_few_queries_has_failed() -> None:
    class Short(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            return []

    with pytest.raises(RetrieverError, match="answered 0 of 1"):
        searched(Short([]), "a")


def test_other_errors_of_a_retriever_are_not_swallowed(play: Play) -> None:
    class Broken(ListRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        play([[SEARCH.format("a")]], retriever=Broken([]))


class Hanging(ListRetriever):
    """The first calls are answered; then ``times`` calls do not come back before the test is over."""

    def __init__(self, *, times: int, answered: int = 0) -> None:
        super().__init__([])
        self.times = times
        self.answered = answered
        self.over = threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = super().search(queries, k)
        if self.answered < len(self.calls) <= self.answered + self.times:
            self.over.wait(60)
        return found


def test_a_search_that_hangs_once_leaves_time_for_another(play: Play) -> None:
    retriever = Hanging(times=1)
    scripts = [[SEARCH.format("a"), ANSWER.format("x")]]
    (trajectory,) = play(scripts, retriever=retriever, search_timeout_s=0.6, search_retries=1).trajectories
    retriever.over.set()
    assert trajectory.stop_reason is StopReason.ANSWER
    assert len(retriever.calls) == 2


def test_a_retriever_that_always_hangs_is_away(play: Play) -> None:
    retriever = Hanging(times=99)
    with pytest.raises(RetrieverUnavailable, match=r"rollout.search_timeout_s = 0.05 s"):
        play([[SEARCH.format("a")]], retriever=retriever, search_timeout_s=0.05, search_retries=1)
    retriever.over.set()


@pytest.mark.parametrize("timeout_s", [3600.0, None])
@pytest.mark.parametrize("answered", [0, 1])
def test_closing_ends_a_call_that_hangs(timeout_s: float | None, answered: int) -> None:
    """After a query that was answered, too: it would be searched for again, to learn whether the retriever is up."""
    retriever = Hanging(times=99, answered=answered)
    queue = SearchQueue(retriever, config=RolloutConfig(search_timeout_s=timeout_s))
    for number in range(answered + 1):
        queue.add(0, f"query {number}", top_k=1, tick=0)
        queue.submit(tick=0, now=True)
        while len(retriever.calls) <= number:
            pass
    for batch in queue.in_flight[:answered]:
        batch.future.result(timeout=20)
        queue.take(batch)
    queue.close()
    assert isinstance(queue.in_flight[0].future.exception(timeout=20), RetrieverError)
    retriever.over.set()
