"""Retry: how often, how long, and who may end it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from calibadv.errors import ConfigError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import Attempts, Retry


def longest(low: float, high: float) -> float:
    return high


def exhaust(attempts: Attempts) -> int:
    """Fail until there is no further attempt; how many attempts there were."""
    while attempts.wait("no answer"):
        pass
    return attempts.failed


def test_waits_double_up_to_the_longest_one() -> None:
    clock = FakeClock()
    assert exhaust(Retry(retries=5, first_wait_s=1.0, longest_wait_s=6.0, clock=clock, draw=longest).start()) == 6
    assert clock.waits == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_the_jitter_is_drawn_from_the_upper_half() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    exhaust(Retry(retries=2, first_wait_s=1.0, clock=FakeClock(), draw=draw).start())
    assert drawn == [(0.5, 1.0), (1.0, 2.0)]


def test_without_retries_there_is_one_attempt() -> None:
    clock = FakeClock()
    assert exhaust(Retry(retries=0, clock=clock).start()) == 1
    assert clock.waits == []


def test_the_server_is_given_the_time_it_asks_for_but_not_more_than_the_longest_wait() -> None:
    clock = FakeClock()
    attempts = Retry(first_wait_s=0.5, longest_wait_s=30.0, clock=clock, draw=longest).start()
    assert attempts.wait("busy", retry_after_s=7.0)
    assert attempts.wait("busy", retry_after_s=3600.0)
    assert clock.waits == [7.5, 30.5]


def test_one_deadline_holds_for_all_attempts() -> None:
    clock = FakeClock()
    attempts = Retry(
        retries=50, first_wait_s=1.0, longest_wait_s=8.0, timeout_s=20.0, clock=clock, draw=longest
    ).start()
    clock.time += 3.0  # the first attempt itself takes time
    assert exhaust(attempts) == 5
    assert clock.waits == [1.0, 2.0, 4.0, 8.0]
    assert attempts.left_s == pytest.approx(2.0)


def test_no_attempt_but_the_last_may_take_all_the_time_that_is_left() -> None:
    clock = FakeClock()
    attempts = Retry(retries=1, first_wait_s=0.0, timeout_s=10.0, clock=clock).start()
    assert attempts.attempt_s == pytest.approx(5.0)
    clock.time += 5.0
    assert attempts.wait("hangs")
    assert attempts.attempt_s == pytest.approx(5.0)


def test_without_a_deadline_an_attempt_may_take_any_time() -> None:
    attempts = Retry(clock=FakeClock()).start()
    assert (attempts.attempt_s, attempts.left_s) == (None, None)


def test_a_failure_of_unknown_kind_may_have_fewer_attempts() -> None:
    attempts = Retry(retries=9, clock=FakeClock()).start()
    assert [attempts.wait("odd", most=2) for _ in range(3)] == [True, True, False]


def test_a_stop_ends_the_wait_at_once_and_everything_after_it() -> None:
    stop = threading.Event()
    attempts = Retry(first_wait_s=3600.0, longest_wait_s=3600.0).start(stop=stop)
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    assert not attempts.wait("closed while it waits")
    assert not attempts.wait("closed")
    timer.join()


def test_an_event_loop_waits_in_the_same_way() -> None:
    clock = FakeClock()
    attempts = Retry(retries=2, first_wait_s=1.0, clock=clock, draw=longest).start()

    async def run() -> list[bool]:
        return [await attempts.wait_async("busy", retry_after_s=after_s) for after_s in (None, 5.0, None)]

    assert asyncio.run(run()) == [True, True, False]
    assert clock.waits == [1.0, 6.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retries": -1}, "retries must be >= 0, got -1"),
        ({"first_wait_s": -1.0}, "first_wait_s"),
        ({"longest_wait_s": float("nan")}, "longest_wait_s"),
        ({"timeout_s": 0.0}, "timeout_s"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Retry(**settings)  # type: ignore[arg-type]
