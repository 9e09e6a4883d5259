"""`VllmServerPolicy` against a fake server that speaks as ``vllm serve`` does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, PolicyError, TokenMismatchError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import NO_RETRY, Retry
from calibadv.rollout import CharTokenizer, RolloutResult
from calibadv.rollout.policies.vllm_server import VllmServerPolicy

KEY = "sk-very-secret"
TEXTS = ["it may be 7. </think><search>number 7</search>", "so </think><answer>seven</answer>"]


class VllmServe:
    """Speaks through a fake server: every context with no observation gets a search, every other an answer."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.completion: Callable[[Any], Any] = self.complete
        server.answers |= {
            "/health": lambda body: "",
            "/v1/models": lambda body: {"data": [{"id": "served", "root": "org/model", "max_model_len": 900}]},
            "/tokenize": lambda body: {"tokens": CharTokenizer().encode(body["prompt"])},
            "/v1/completions": lambda body: self.completion(body),
        }

    def complete(self, body: Any) -> Any:
        searched = "</information>" in CharTokenizer().decode(body["prompt"])
        ids = CharTokenizer().encode(TEXTS[searched])[: body["max_tokens"]]
        return self.choice(body, token_ids=ids)

    @staticmethod
    def choice(body: Any, *, token_ids: list[int], **changed: Any) -> Any:
        top = [{"x": -0.25}] * len(token_ids)
        choice = {
            "token_ids": token_ids,
            "prompt_token_ids": body["prompt"],
            "logprobs": {"token_logprobs": [-0.5] * len(token_ids), "top_logprobs": top},
            "finish_reason": "length" if len(token_ids) == body["max_tokens"] else "stop",
            "stop_reason": "</search>",
        }
        return {"choices": [choice | changed]}


@pytest.fixture
def serve(fake_server: Any) -> VllmServe:
    return VllmServe(fake_server)


@pytest.fixture
def open_one(serve: VllmServe, closed_later: Any) -> Callable[..., VllmServerPolicy]:
    defaults: dict[str, Any] = {"model": "org/model", "retry": Retry(retries=2, clock=FakeClock())}
    return lambda **settings: closed_later(VllmServerPolicy(serve.server.url, CharTokenizer(), **(defaults | settings)))


def test_episodes_are_played_with_the_ids_that_the_server_sampled(
    open_one: Callable[..., VllmServerPolicy], play_with: Callable[..., RolloutResult], serve: VllmServe
) -> None:
    policy = open_one()
    result = play_with(policy, CharTokenizer(), count=3)
    assert [[turn.text for turn in t.turns] for t in result.trajectories] == [TEXTS] * 3
    turn = result.trajectories[0].turns[0]
    assert turn.token_ids == tuple(CharTokenizer().encode(TEXTS[0]))
    assert set(turn.logprobs) == {-0.5}


def test_a_request_holds_ids_and_everything_that_a_generation_config_could_change(
    open_one: Callable[..., VllmServerPolicy], play_with: Callable[..., RolloutResult], serve: VllmServe
) -> None:
    play_with(open_one(), CharTokenizer(), count=1, temperature=0.7, top_p=0.9)
    body = serve.server.bodies("/v1/completions")[2]  # after two probes
    assert CharTokenizer().decode(body["prompt"]) == "who is number 0?<think>"
    assert body["model"] == "served"
    assert body["stop"] == ["</search>", "</answer>"]
    assert body["stop_token_ids"] == [3]
    assert (body["temperature"], body["top_p"]) == (0.7, 0.9)
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0.0, 1.0)
    assert body["return_token_ids"] is True
    assert body["include_stop_str_in_output"] is True
    assert body["skip_special_tokens"] is False
    assert 0 <= body["seed"] < 2**63


def test_the_context_is_as_long_as_the_server_says(open_one: Callable[..., VllmServerPolicy]) -> None:
    assert open_one().max_context == 900
    assert open_one(max_context=400).max_context == 400
    with pytest.raises(ConfigError, match=r"model\.max_context must be <= 900"):
        open_one(max_context=901)


def test_a_model_is_known_by_its_name_or_its_folder(open_one: Callable[..., VllmServerPolicy]) -> None:
    assert open_one(model="served").served_name == "served"
    assert open_one(model="elsewhere", served_name="served").served_name == "served"
    with pytest.raises(ConfigError, match=r'serves "served", not model\.path "other".*served_name'):
        open_one(model="other")


def test_another_tokenizer_is_refused(open_one: Callable[..., VllmServerPolicy], serve: VllmServe) -> None:
    serve.server.answers["/tokenize"] = lambda body: {"tokens": [1, 2, 3]}
    with pytest.raises(ConfigError, match="encodes text differently"):
        open_one()


def test_log_probabilities_after_the_temperature_are_refused(
    open_one: Callable[..., VllmServerPolicy], serve: VllmServe
) -> None:
    serve.completion = lambda body: serve.choice(
        body, token_ids=[65], logprobs={"token_logprobs": [-1.0], "top_logprobs": [{"A": -1.0 * body["temperature"]}]}
    )
    with pytest.raises(ConfigError, match="--logprobs-mode raw_logprobs"):
        open_one()


def test_a_server_without_token_ids_is_refused_with_a_remedy(
    open_one: Callable[..., VllmServerPolicy], serve: VllmServe
) -> None:
    serve.completion = lambda body: {"choices": [{"text": "hello", "finish_reason": "length"}]}
    with pytest.raises(PolicyError, match=r"does not return token ids.*vllm serve.*openai"):
        open_one()


def test_a_prompt_that_the_server_changed_is_noticed(
    open_one: Callable[..., VllmServerPolicy], play_with: Callable[..., RolloutResult], serve: VllmServe
) -> None:
    policy = open_one()
    serve.completion = lambda body: serve.choice(body, token_ids=[65] * 5, prompt_token_ids=body["prompt"][1:])
    with pytest.raises(TokenMismatchError, match="truncation"):
        play_with(policy, CharTokenizer())


def test_a_busy_server_is_asked_again(
    open_one: Callable[..., VllmServerPolicy],
    play_with: Callable[..., RolloutResult],
    serve: VllmServe,
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = open_one(key=KEY)
    failures = iter([(503, "overloaded"), (429, {"error": "slow down"}, {"Retry-After": "0"})])
    serve.completion = lambda body: next(failures, None) or serve.complete(body)
    with caplog.at_level(logging.DEBUG):
        result = play_with(policy, CharTokenizer(), count=1)
    assert [turn.text for turn in result.trajectories[0].turns] == TEXTS
    assert "status 503: overloaded; attempt 2" in caplog.text
    assert KEY not in caplog.text
    assert serve.server.asked[-1][2]["Authorization"] == f"Bearer {KEY}"


def test_a_server_that_stays_away_ends_the_rollout_with_what_was_finished(
    open_one: Callable[..., VllmServerPolicy], play_with: Callable[..., RolloutResult], serve: VllmServe
) -> None:
    policy = open_one(max_rows=1)
    count = iter(range(100))
    serve.completion = lambda body: serve.complete(body) if next(count) < 2 else (502, "gone")
    with pytest.raises(PolicyError, match=r"unreachable after 3 attempts \(model\.retries = 2\): status 502") as caught:
        play_with(policy, CharTokenizer(), count=3, concurrency=1)
    assert len(caught.value.trajectories) == 1


def test_a_refused_request_is_not_repeated(
    open_one: Callable[..., VllmServerPolicy], play_with: Callable[..., RolloutResult], serve: VllmServe
) -> None:
    policy = open_one()
    before = len(serve.server.asked)
    serve.completion = lambda body: (400, {"error": {"message": f"bad request, key {KEY}"}})
    with pytest.raises(PolicyError, match=r"refused the request \(status 400: bad request"):
        play_with(policy, CharTokenizer(), count=1)
    assert len(serve.server.asked) == before + 1


def test_a_wrong_key_is_named_without_showing_it(open_one: Callable[..., VllmServerPolicy], serve: VllmServe) -> None:
    serve.server.answers["/v1/models"] = lambda body: (401, {"error": {"message": f"incorrect key {KEY}"}})
    with pytest.raises(PolicyError, match=r"incorrect key \*\*\*\); check the key \(model\.api_key_env\)"):
        open_one(key=KEY)


def test_nobody_at_the_address_is_told_in_one_line() -> None:
    with pytest.raises(PolicyError, match=r"was unreachable after 1 attempts.*Check that the server runs"):
        VllmServerPolicy("http://127.0.0.1:9", CharTokenizer(), model="m", retry=NO_RETRY)


def test_a_page_that_is_no_model_server_is_told_so(open_one: Callable[..., VllmServerPolicy], serve: VllmServe) -> None:
    serve.server.answers["/v1/models"] = lambda body: (200, "<html>hello</html>")
    with pytest.raises(PolicyError, match="did not answer with JSON"):
        open_one()


def test_new_weights_need_the_development_mode(
    open_one: Callable[..., VllmServerPolicy], serve: VllmServe, tmp_path: Path
) -> None:
    policy = open_one()
    with pytest.raises(PolicyError, match="VLLM_SERVER_DEV_MODE=1"):
        policy.load_weights(tmp_path)
    serve.server.answers |= {
        "/collective_rpc": lambda body: {"results": [None]},
        "/reset_prefix_cache": lambda body: "",
    }
    policy.load_weights(tmp_path)
    assert serve.server.bodies("/collective_rpc")[-1]["kwargs"] == {"weights_path": str(tmp_path)}
