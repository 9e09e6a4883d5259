"""What a chat request may hold, and what is said when it cannot be answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calibadv.agent.server.config import AgentServerConfig
from calibadv.agent.server.openai_format import BadChat, Chat, read_chat
from calibadv.errors import ConfigError
from calibadv.rollout import RolloutConfig

CONFIG = AgentServerConfig(model_name="agent", max_question_chars=100)


def read(request: Any) -> Chat:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return read_chat(body, config=CONFIG, rollout=RolloutConfig(temperature=0.0, max_turn_tokens=64))


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"model": "agent", "messages": [{"role": "user", "content": text}], **more}


def test_the_question_is_the_last_user_message_and_the_rest_is_counted() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "Ada"},
        {"role": "user", "content": " and who else? "},
    ]
    chat = read({"model": "agent", "messages": messages})
    assert (chat.question, chat.ignored_messages) == ("and who else?", 3)


def test_content_may_come_in_text_parts() -> None:
    assert read(user([{"type": "text", "text": "who"}, {"type": "text", "text": "wrote it?"}])).question == (
        "who\nwrote it?"
    )


def test_sampling_parameters_change_this_question_only() -> None:
    chat = read(user("who?", temperature=0.5, top_p=0.9, max_tokens=16, seed=3))
    assert (chat.rollout.temperature, chat.rollout.top_p, chat.rollout.max_turn_tokens) == (0.5, 0.9, 16)
    assert chat.seed == 3
    assert read(user("who?")).rollout == RolloutConfig(temperature=0.0, max_turn_tokens=64)
    assert read(user("who?", max_completion_tokens=10_000)).rollout.max_turn_tokens == 64


def test_parameters_that_ask_for_nothing_are_fine() -> None:
    harmless = {"n": 1, "tools": None, "stop": None, "presence_penalty": 0, "user": "me", "metadata": {"a": "b"}}
    assert read(user("who?", **harmless)).question == "who?"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        ([], "JSON object"),
        ({"model": "agent"}, "messages must be a list"),
        ({"model": "agent", "messages": []}, "messages must be a list"),
        ({"model": "agent", "messages": ["who?"]}, "messages must be a list"),
        ({"model": "agent", "messages": [{"role": "assistant", "content": "a"}]}, "last message must be the user's"),
        (user("  "), "empty"),
        (user(None), "content must be text"),
        (user(3), "content must be text"),
        (user([{"type": "image_url", "image_url": {}}]), "only text"),
        (user("x" * 101), "more than the 100 allowed"),
        (user("\ud800"), "surrogate"),
        (user("who?", model="other"), "there is no model"),
        (user("who?", model=3), "there is no model"),
        (user("who?", n=2), "n = 2 is not supported"),
        (user("who?", tools=[{"type": "function"}]), "tools"),
        (user("who?", logprobs=True), "logprobs"),
        (user("who?", response_format={"type": "json_object"}), "response_format"),
        (user("who?", temperature="hot"), "temperature must be a number"),
        (user("who?", temperature=True), "temperature must be a number"),
        (user("who?", temperature=-1), "temperature"),
        (user("who?", top_p=0), "top_p"),
        (user("who?", max_tokens=0), "max_tokens must be >= 1"),
        (user("who?", max_tokens=1.5), "whole number"),
        (user("who?", seed="x"), "seed must be a whole number"),
        (user("who?", stream="yes"), "stream"),
        (user("who?", stream_options=[1]), "stream"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(request_: Any, message: str) -> None:
    with pytest.raises(BadChat, match=message):
        read(request_)


@pytest.mark.parametrize(
    "settings", [{"port": -1}, {"max_conversations": 0}, {"token": ""}, {"token": "a\nb"}, {"shutdown_grace_s": -1}]
)
def test_settings_without_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AgentServerConfig(**settings)
