"""Garbled text is found by perplexity, turn by turn."""

import math

import pytest

from calibadv.errors import ConfigError
from calibadv.rewards.perplexity import is_garbled, perplexity, segment_perplexities
from calibadv.trajectory import Action, ActionKind, Question, StopReason, Trajectory, Turn


def trajectory(*logprobs: tuple[float, ...]) -> Trajectory:
    turns = tuple(Turn(text="", action=Action(ActionKind.INVALID), logprobs=values) for values in logprobs)
    question = Question(id="1", text="Where?", golden_answers=("Oslo",))
    return Trajectory(question=question, prompt="", turns=turns, stop_reason=StopReason.INVALID_ACTION)


def test_perplexity_is_the_exponential_of_the_mean_loss() -> None:
    assert segment_perplexities(trajectory((-1.0, -3.0), (-0.5,))) == pytest.approx((math.e**2, math.e**0.5))


def test_one_bad_turn_is_enough_and_the_threshold_is_inclusive() -> None:
    limit = -math.log(50.0)
    assert is_garbled(trajectory((0.0,), (limit - 1e-9,)))
    assert not is_garbled(trajectory((0.0,), (limit + 1e-9,)))
    assert is_garbled(trajectory((-1.0,)), threshold=2.0)


def test_turns_without_tokens_are_not_garbled() -> None:
    assert math.isnan(segment_perplexities(trajectory(()))[0])
    assert not is_garbled(trajectory((), ()))
    assert not is_garbled(trajectory())


def test_an_impossible_token_is_infinite() -> None:
    assert perplexity([-1.0, -math.inf]) == math.inf
    assert perplexity([-2000.0]) == math.inf


def test_a_threshold_at_or_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold must be > 1"):
        is_garbled(trajectory(), threshold=1.0)
