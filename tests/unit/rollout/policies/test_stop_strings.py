"""Where a turn ends, told from token ids that another program sampled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from calibadv.errors import PolicyError
from calibadv.rollout import CharTokenizer, Completion, GenerationRequest, SamplingParams
from calibadv.rollout.policies.stop_strings import StopFinder, TurnReader


class WordTokenizer(CharTokenizer):
    """Ids are places in a list of pieces, so that a stop string can end in the middle of one."""

    pieces = ("", "a", "b", "<eos>", "</sea", "rch", ">", ">\n", "</search>", "x</search>y")

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in ids)


def read(ids: Sequence[int], *, max_tokens: int = 10, said_eos: bool = False) -> Completion:
    request = GenerationRequest(episode=4, token_ids=(1,), params=SamplingParams(max_tokens=max_tokens), seed=0)
    return TurnReader(WordTokenizer(), eos_ids=(3,)).read(
        request, token_ids=ids, logprobs=[-float(token) for token in ids], said_eos=said_eos
    )


@pytest.mark.parametrize(
    ("ids", "kept", "text", "finish"),
    [
        ([1, 4, 5, 6], 4, "a</search>", "stop"),
        ([1, 4, 5, 7, 2], 4, "a</search>\n", "stop"),
        ([1, 9, 2, 8], 2, "ax</search>y", "stop"),
        ([1, 2, 3], 3, "ab", "eos"),
        ([1, 3, 8], 2, "a", "eos"),
    ],
)
def test_the_first_end_counts_and_its_token_stays_whole(ids: list[int], kept: int, text: str, finish: str) -> None:
    done = read(ids)
    assert (done.token_ids, done.text, done.finish) == (tuple(ids[:kept]), text, finish)
    assert done.logprobs == tuple(-float(token) for token in ids[:kept])


def test_the_limit_ends_a_turn() -> None:
    assert read([1, 2, 1], max_tokens=3).finish == "length"


def test_a_stop_string_at_the_limit_is_a_stop() -> None:
    assert read([1, 8], max_tokens=2).finish == "stop"


def test_an_end_token_that_only_the_engine_knows_is_left_out_of_the_text() -> None:
    done = read([1, 2, 2], said_eos=True)
    assert (done.finish, done.text, len(done.token_ids)) == ("eos", "ab", 3)


def test_a_turn_that_ends_for_no_reason_is_an_error() -> None:
    with pytest.raises(PolicyError, match="episode 4: the engine ended the turn after 2 tokens"):
        read([1, 2])


def test_ids_without_their_log_probabilities_are_an_error() -> None:
    request = GenerationRequest(episode=0, token_ids=(1,), params=SamplingParams(), seed=0)
    with pytest.raises(PolicyError, match="2 token ids and 1 log-prob"):
        TurnReader(WordTokenizer(), eos_ids=()).read(request, token_ids=[1, 3], logprobs=[0.0])


def test_a_log_probability_that_is_no_number_is_an_error() -> None:
    request = GenerationRequest(episode=0, token_ids=(1,), params=SamplingParams(), seed=0)
    with pytest.raises(PolicyError, match="not finite"):
        TurnReader(WordTokenizer(), eos_ids=(3,)).read(request, token_ids=[3], logprobs=[float("nan")])


def test_without_stop_strings_nothing_is_found() -> None:
    assert StopFinder((), WordTokenizer()).first([1, 8, 2]) is None
