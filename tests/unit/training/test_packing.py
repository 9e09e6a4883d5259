"""How rollouts are divided into mini-batches and passes, whatever their number and lengths."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv.errors import ConfigError
from calibadv.training.grpo_config import rows_per_process
from calibadv.training.overrides.question_sampler import QuestionSampler
from calibadv.training.packing import dealt, mini_batches_of, passes_of, same_number

lengths = st.lists(st.integers(1, 50), max_size=40)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, budget=st.integers(1, 120))
def test_every_row_is_in_exactly_one_pass_and_no_pass_exceeds_the_budget_but_for_a_single_row(
    lengths: list[int], budget: int
) -> None:
    passes = passes_of(lengths, budget=budget)
    assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
    for rows in passes:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9), budget=st.integers(1, 30))
def test_no_division_into_runs_of_neighbours_by_length_needs_fewer_passes(lengths: list[int], budget: int) -> None:
    ordered = sorted(lengths, reverse=True)

    def fewest(start: int) -> int:
        if start == len(ordered):
            return 0
        ends = (n for n in range(1, len(ordered) - start + 1) if n == 1 or n * ordered[start] <= budget)
        return 1 + min(fewest(start + n) for n in ends)

    assert len(passes_of(lengths, budget=budget)) == fewest(0)


@settings(max_examples=100, deadline=None)
@given(shares=st.lists(lengths, min_size=1, max_size=4), budget=st.integers(1, 120))
def test_every_process_makes_the_same_number_of_passes(shares: list[list[int]], budget: int) -> None:
    packed = [passes_of(share, budget=budget) for share in shares]
    count = max(map(len, packed))
    filled = [same_number(passes, count) for passes in packed]
    assert {len(passes) for passes in filled} == {count}
    for passes, before in zip(filled, packed, strict=True):
        assert [rows for rows in passes if rows] == before


shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(1, 13))


@settings(max_examples=200, deadline=None)
@given(shape=shapes)
def test_mini_batches_are_those_of_one_process_and_differ_by_one_rollout_at_most(
    shape: tuple[int, int, int, int],
) -> None:
    processes, per_process, group, mini_batches = shape
    questions = list(range(processes * per_process))
    mini_batches = min(mini_batches, len(questions) * group)
    asked = dealt(questions, processes=processes)
    found: dict[tuple[int, int], int] = {}
    for process in range(processes):
        own = asked[process * per_process : (process + 1) * per_process]
        numbers = mini_batches_of(
            per_process * group, group=group, process=process, processes=processes, mini_batches=mini_batches
        )
        rows = [(question, rollout) for question in own for rollout in range(group)]
        found |= dict(zip(rows, numbers, strict=True))
    alone = mini_batches_of(len(found), group=group, process=0, processes=1, mini_batches=mini_batches)
    assert [found[row] for row in sorted(found)] == alone == sorted(alone)
    sizes = Counter(alone)
    assert len(sizes) == mini_batches
    assert max(sizes.values()) - min(sizes.values()) <= 1


def test_the_published_batch_gives_ten_updates_of_256_rollouts_on_any_number_of_gpus() -> None:
    for processes in (1, 2, 4, 8, 16):
        rows = rows_per_process(512, num_rollouts=5, mini_batches=10, processes=processes)
        found = Counter(
            number
            for process in range(processes)
            for number in mini_batches_of(rows, group=5, process=process, processes=processes, mini_batches=10)
        )
        assert found == Counter(dict.fromkeys(range(10), 256))


def test_questions_of_every_batch_are_dealt_out_to_the_processes_one_by_one() -> None:
    sampler = QuestionSampler(range(8), questions_per_batch=4, num_rollouts=1, repeats=1, processes=2)
    assert list(sampler) == [0, 2, 1, 3, 4, 6, 5, 7]


def test_batches_that_cannot_be_shared_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"questions_per_batch is 10, which 4 processes .*: make it a multiple of 4$"):
        rows_per_process(10, num_rollouts=5, mini_batches=1, processes=4)
    with pytest.raises(ConfigError, match=r"mini_batches is 7, but a batch has 6 rollouts"):
        rows_per_process(2, num_rollouts=3, mini_batches=7, processes=1)
