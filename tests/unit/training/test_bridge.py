import tracemalloc
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from calibadv.errors import ConfigError, TokenMismatchError
from calibadv.training.overrides.question_sampler import QuestionSampler
from calibadv.training.trl_batch import QuestionOrder, check_trained_tokens, rollout_fields, turn_starts
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn


def trajectory(*lengths: tuple[int, int], stop_reason: StopReason = StopReason.ANSWER) -> Trajectory:
    """Turns of the given (model tokens, observation tokens), with token ids 100, 101, ... in order."""
    ids = iter(range(100, 1000))
    turns = tuple(
        Turn(
            text="",
            action=Action(ActionKind.SEARCH),
            token_ids=tuple(next(ids) for _ in range(model)),
            logprobs=(-0.5,) * model,
            observation_token_ids=tuple(next(ids) for _ in range(observation)),
        )
        for model, observation in lengths
    )
    question = Question(id="q", text="?", golden_answers=("a",))
    return Trajectory(question=question, prompt="p", prompt_token_ids=(1, 2), turns=turns, stop_reason=stop_reason)


def test_observations_are_masked_and_ids_stay_in_order() -> None:
    fields = rollout_fields([trajectory((2, 3), (1, 0))], filler_id=9)
    assert fields["prompt_ids"] == [[1, 2]]
    assert fields["completion_ids"] == [[100, 101, 102, 103, 104, 105]]
    assert fields["env_mask"] == [[1, 1, 0, 0, 0, 1]]
    assert fields["logprobs"] == [[-0.5, -0.5, 0.0, 0.0, 0.0, -0.5]]


def test_trajectory_without_a_token_gets_one_masked_filler() -> None:
    fields = rollout_fields([trajectory(stop_reason=StopReason.DEADLINE)], filler_id=9)
    assert (fields["completion_ids"], fields["env_mask"], fields["logprobs"]) == ([[9]], [[0]], [[0.0]])


def test_failed_trajectory_is_masked_altogether() -> None:
    fields = rollout_fields([trajectory((2, 1), stop_reason=StopReason.SEARCH_FAILED)], filler_id=9)
    assert fields["env_mask"] == [[0, 0, 0]]


def test_turn_starts_count_observations_in_between() -> None:
    starts = turn_starts([trajectory((2, 3), (1, 0)), trajectory((4, 0))], num_turns=3)
    assert starts.tolist() == [[0, 5, 0], [0, 0, 0]]


def test_trained_ids_that_differ_from_the_sampled_ones_are_an_error() -> None:
    check_trained_tokens(trajectory((2, 3), (1, 0)), [100, 101, 105])
    with pytest.raises(TokenMismatchError, match="first difference at 2"):
        check_trained_tokens(trajectory((2, 3), (1, 0)), [100, 101, 102])


@given(num=st.integers(1, 30), per_batch=st.integers(1, 30), batches=st.integers(1, 9), seed=st.integers(0, 99))
def test_no_question_is_asked_twice_in_a_batch_and_all_get_their_turn(
    num: int, per_batch: int, batches: int, seed: int
) -> None:
    if per_batch > num:
        with pytest.raises(ConfigError, match="questions_per_batch"):
            QuestionOrder(num_questions=num, num_batches=batches, questions_per_batch=per_batch, seed=seed)
        return
    order = list(QuestionOrder(num_questions=num, num_batches=batches, questions_per_batch=per_batch, seed=seed))
    chunks = [order[i : i + per_batch] for i in range(0, len(order), per_batch)]
    assert len(chunks) == batches
    assert all(len(set(chunk)) == per_batch for chunk in chunks)
    in_a_pass = num // per_batch
    first_pass = [index for chunk in chunks[:in_a_pass] for index in chunk]
    assert len(set(first_pass)) == len(first_pass)


def test_longer_run_asks_the_same_questions_first() -> None:
    short, long = (list(QuestionOrder(num_questions=10, num_batches=n, questions_per_batch=4, seed=1)) for n in (3, 7))
    assert long[: len(short)] == short


def test_the_order_of_questions_is_that_of_every_run_so_far() -> None:
    """Runs of earlier versions resume with the questions that they would have asked."""
    order = QuestionOrder(num_questions=7, num_batches=5, questions_per_batch=3, seed=11)
    passes = Random(11)
    whole = [index for _ in range(3) for index in passes.sample(range(7), 7)[:6]]
    assert list(order) == whole[:15] == [3, 4, 6, 5, 2, 0, 6, 4, 3, 1, 0, 5, 1, 0, 4]


@given(
    num=st.integers(1, 12), per_batch=st.integers(1, 4), batches=st.integers(1, 9), rollouts=st.integers(2, 3),
    repeats=st.integers(1, 3),
)  # fmt: skip
def test_questions_are_sampled_as_trl_samples_them(
    num: int, per_batch: int, batches: int, rollouts: int, repeats: int
) -> None:
    num = max(num, per_batch)
    order = QuestionOrder(num_questions=num, num_batches=batches, questions_per_batch=per_batch, seed=0)
    ours = QuestionSampler(order, questions_per_batch=per_batch, num_rollouts=rollouts, repeats=repeats)
    listed = list(order)
    theirs = RepeatSampler(
        listed, mini_repeat_count=rollouts, batch_size=per_batch, repeat_count=repeats, shuffle=False
    )
    assert list(ours) == [listed[row] for row in theirs]
    assert len(ours) == len(theirs)


def test_a_billion_batches_are_drawn_one_by_one() -> None:
    order = QuestionOrder(num_questions=5, num_batches=10**9, questions_per_batch=2, seed=0)
    sampler = QuestionSampler(order, questions_per_batch=2, num_rollouts=2, repeats=1)
    assert len(sampler) == 4 * 10**9
    tracemalloc.start()
    drawn = list(islice(sampler, 40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn[::2] == list(islice(order, 20))
    assert peak < 100_000
