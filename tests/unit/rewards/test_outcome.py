"""The reward: the score of the model's own answer times the format flag."""

import pytest

from calibadv.errors import ConfigError, DataError
from calibadv.rewards.outcome import outcome_reward, score_trajectory
from calibadv.trajectory import Question, Trajectory

BLOCK = '\n\n<information>Doc 1(Title: "Oslo") A city.</information>\n\n'
GOOD = f"<think>hm</think><search>where</search>{BLOCK}<think>ah</think><answer>Oslo city</answer>"
QUESTION = Question(id="1", text="Where?", golden_answers=("Oslo",))


def read(response: str, question: Question = QUESTION) -> Trajectory:
    return Trajectory.from_text("Q", response, question)


@pytest.mark.parametrize(("score", "reward"), [("f1", 2 / 3), ("em", 0.0), ("cem", 1.0)])
def test_the_reward_is_the_named_score_of_a_clean_trajectory(score: str, reward: float) -> None:
    assert outcome_reward(read(GOOD), score=score) == pytest.approx(reward)


def test_a_broken_format_earns_nothing_but_keeps_its_scores() -> None:
    broken = read(GOOD + " trailing")
    assert outcome_reward(broken) == 0.0
    assert score_trajectory(broken)["f1"] == pytest.approx(2 / 3)


def test_without_an_answer_every_score_is_zero() -> None:
    assert score_trajectory(read("<think>hm</think><search>q</search>")) == {"em": 0.0, "cem": 0.0, "f1": 0.0}
    assert outcome_reward(read("nothing")) == 0.0


def test_an_unknown_score_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"reward\.score must be one of f1, em, cem, got 'rouge'"):
        outcome_reward(read(GOOD), score="rouge")


def test_a_question_without_golden_answers_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="no golden answers"):
        outcome_reward(read(GOOD, Question(id="1", text="Where?", golden_answers=())))
