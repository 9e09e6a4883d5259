"""`OpenAIPolicy` against a fake server: what is sent, what is made of the answers, what happens when it refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from calibadv.errors import ConfigError, PolicyError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import Retry
from calibadv.rollout import CharTokenizer, RolloutResult
from calibadv.rollout.policies.openai import OpenAIPolicy, end_turn
from calibadv.rollout.policies.text_tokenizer import TextTokenizer

SEARCH = "I look. </think><search>number 0"  # the server leaves the stop string out
ANSWER = "So. </think><answer>zero"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}


def chat(content: str | None, reason: str = "stop", **message: Any) -> Any:
    return {
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}],
        "usage": USAGE,
    }


@pytest.fixture
def chat_server(fake_server: Any) -> Any:
    def answer(body: Any) -> Any:
        searched = any("</information>" in message["content"] for message in body["messages"])
        return chat(f"<think>{ANSWER if searched else SEARCH}")

    fake_server.answers |= {
        "/v1/models": lambda body: {"data": [{"id": "some-model"}]},
        "/v1/chat/completions": answer,
    }
    return fake_server


@pytest.fixture
def open_one(fake_server: Any, closed_later: Any) -> Callable[..., OpenAIPolicy]:
    defaults: dict[str, Any] = {"model": "some-model", "retry": Retry(retries=2, clock=FakeClock())}
    return lambda **settings: closed_later(OpenAIPolicy(f"{fake_server.url}/v1", **(defaults | settings)))


def test_turns_and_observations_become_messages(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    policy = open_one()
    assert policy.api == "chat"
    result = play_with(policy, policy.tokenizer, count=1, max_turn_tokens=99)
    (trajectory,) = result.trajectories
    assert [turn.text for turn in trajectory.turns] == [f"{SEARCH}</search>", f"{ANSWER}</answer>"]
    first, second = chat_server.bodies("/v1/chat/completions")
    assert first["messages"] == [{"role": "user", "content": "who is number 0?"}]
    assert (first["model"], first["max_tokens"], first["stop"]) == ("some-model", 99, ["</search>", "</answer>"])
    assert second["messages"] == [
        {"role": "user", "content": "who is number 0?"},
        {"role": "assistant", "content": f"<think>{SEARCH}</search>"},
        {"role": "user", "content": '<information>Doc 1(Title: "Title 0") fact number 0</information>'},
    ]


def test_the_trajectory_so_far_can_be_one_message_to_be_continued(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    chat_server.answers["/v1/chat/completions"] = lambda body: chat(
        ANSWER if "</information>" in body["messages"][-1]["content"] else SEARCH
    )
    policy = open_one(api="chat-continue")
    play_with(policy, policy.tokenizer, count=1)
    first, second = chat_server.bodies("/v1/chat/completions")
    assert first["messages"][-1] == {"role": "assistant", "content": "<think>"}
    assert (first["continue_final_message"], first["add_generation_prompt"]) == (True, False)
    (user, assistant) = second["messages"]
    assert user == {"role": "user", "content": "who is number 0?"}
    assert assistant["content"].startswith(f"<think>{SEARCH}</search>\n\n<information>")
    assert assistant["content"].endswith("</information>\n\n<think>")


def test_completions_are_used_where_the_tokenizer_is_known(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], fake_server: Any
) -> None:
    def complete(body: Any) -> Any:
        text = ANSWER if "</information>" in body["prompt"] else SEARCH
        return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": USAGE}

    fake_server.answers["/v1/completions"] = complete
    policy = open_one(tokenizer=TextTokenizer(CharTokenizer()))
    assert policy.api == "completions"
    (trajectory,) = play_with(policy, policy.tokenizer, count=1).trajectories
    assert trajectory.turns[0].token_ids == tuple(CharTokenizer().encode(f"{SEARCH}</search>"))
    prompts = [body["prompt"] for body in fake_server.bodies("/v1/completions")[1:]]
    assert prompts[0] == "who is number 0?<think>"
    assert prompts[1].startswith(f"who is number 0?<think>{SEARCH}</search>\n\n<information>Doc 1")


def test_a_server_without_completions_is_asked_by_chat(open_one: Callable[..., OpenAIPolicy], chat_server: Any) -> None:
    assert open_one(tokenizer=TextTokenizer(CharTokenizer())).api == "chat"


def test_tokens_are_counted_as_the_server_counts_them(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    policy = open_one()
    play_with(policy, policy.tokenizer, count=3)
    assert policy.usage == {"requests": 6, "prompt_tokens": 66, "completion_tokens": 42, "cached_tokens": 18}


def test_there_are_no_made_up_log_probabilities(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    policy = open_one()
    assert all(turn.logprobs == () for turn in play_with(policy, policy.tokenizer).trajectories[0].turns)


def test_thinking_in_a_field_of_its_own_comes_back_into_its_tags(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    chat_server.answers["/v1/chat/completions"] = lambda body: chat("<answer>zero", reasoning_content="I know it.")
    policy = open_one()
    (trajectory,) = play_with(policy, policy.tokenizer, count=1).trajectories
    assert trajectory.turns[0].text == "I know it.</think><answer>zero</answer>"
    assert trajectory.turns[0].thinking == "I know it."


@pytest.mark.parametrize("name", ["stop", "temperature", "max_tokens"])
def test_a_parameter_that_the_server_does_not_know_is_left_out(
    open_one: Callable[..., OpenAIPolicy],
    play_with: Callable[..., RolloutResult],
    chat_server: Any,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usual = chat_server.answers["/v1/chat/completions"]

    def answer(body: Any) -> Any:
        if name in body:
            return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported with this model."}}
        reply = usual(body)
        reply["choices"][0]["message"]["content"] += "</search> and more" if name == "stop" else ""
        return reply

    chat_server.answers["/v1/chat/completions"] = answer
    policy = open_one()
    with caplog.at_level(logging.WARNING):
        (trajectory,) = play_with(policy, policy.tokenizer, count=1).trajectories
    assert trajectory.turns[0].text == f"{SEARCH}</search>"
    assert f"does not take {name}" in caplog.text
    last = chat_server.bodies("/v1/chat/completions")[-1]
    assert ("max_completion_tokens" in last) == (name == "max_tokens")


def test_another_refusal_ends_the_rollout(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    chat_server.answers["/v1/chat/completions"] = lambda body: (400, {"error": {"message": "context too long"}})
    policy = open_one()
    with pytest.raises(PolicyError, match="context too long"):
        play_with(policy, policy.tokenizer)


def test_a_busy_server_is_asked_again_after_as_long_as_it_says(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    usual = chat_server.answers["/v1/chat/completions"]
    busy = iter([(429, {"error": {"message": "rate limit"}}, {"Retry-After": "0.05"}), (500, "oops")])
    chat_server.answers["/v1/chat/completions"] = lambda body: next(busy, None) or usual(body)
    policy = open_one()
    assert len(play_with(policy, policy.tokenizer, count=1).trajectories[0].turns) == 2


def test_a_model_that_the_server_does_not_list_is_refused(
    open_one: Callable[..., OpenAIPolicy], chat_server: Any
) -> None:
    with pytest.raises(ConfigError, match=r'serves some-model, not "other"; set model\.served_name'):
        open_one(model="other")


def test_a_server_need_not_list_its_models(open_one: Callable[..., OpenAIPolicy], chat_server: Any) -> None:
    del chat_server.answers["/v1/models"]
    assert open_one(model="whatever").api == "chat"


def test_an_answer_without_a_choice_is_an_error(
    open_one: Callable[..., OpenAIPolicy], play_with: Callable[..., RolloutResult], chat_server: Any
) -> None:
    chat_server.answers["/v1/chat/completions"] = lambda body: {"choices": []}
    policy = open_one()
    with pytest.raises(PolicyError, match="answered without a choice"):
        play_with(policy, policy.tokenizer)


@pytest.mark.parametrize(
    ("text", "reason", "met", "expected"),
    [
        ("a <search>b", "stop", None, ("a <search>b</search>", "stop")),
        ("<search>b</search><answer>c", "stop", None, ("<search>b</search>", "stop")),
        ("a <search>b <answer>c", "stop", None, ("a <search>b <answer>c</answer>", "stop")),
        ("a <search>b <answer>c", "stop", "</search>", ("a <search>b <answer>c</search>", "stop")),
        ("no tag", "stop", None, ("no tag", "eos")),
        ("a <search>b", "length", None, ("a <search>b", "length")),
        ("", "content_filter", None, ("", "eos")),
    ],
)
def test_the_closing_tag_is_put_back(text: str, reason: str, met: Any, expected: tuple[str, str]) -> None:
    assert end_turn(text, stop=("</search>", "</answer>"), reason=reason, met=met) == expected
