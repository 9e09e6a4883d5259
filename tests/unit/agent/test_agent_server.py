"""The agent over HTTP, asked by the official OpenAI client and by hand."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from serving import ADA, ANSWER, SEARCH, served

from calibadv.agent.server import AgentServerConfig, claim_address
from calibadv.errors import ConfigError
from calibadv.retrieval import ListRetriever

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "who wrote the first program?"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_the_official_client_gets_the_answer_with_usage_and_sources(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="agent", messages=QUESTION)
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("Ada", "assistant", "stop")
    assert (choice.message.model_extra or {})["reasoning_content"].startswith(
        "I look it up.\nSearch: first program\nFound: Ada Lovelace; "
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(SEARCH) + len(ANSWER)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    extension = (reply.model_extra or {})["calibadv"]
    assert extension["sources"][0] == {
        "id": "1", "title": ADA.title, "text": ADA.text, "turn": 0, "holds_answer": True,
    }  # fmt: skip
    assert (extension["answer"], extension["searches"], extension["stop_reason"]) == ("Ada", 1, "answer")
    assert [event["type"] for event in extension["events"]] == ["turn", "documents", "turn"]


def test_the_official_client_streams_turns_and_then_the_answer(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="agent", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "Ada"
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert "Search: first program" in reasoning
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(SEARCH) + len(ANSWER)
    extensions = [(chunk.model_extra or {}).get("calibadv", {}) for chunk in chunks]
    events = [extension["event"] for extension in extensions if "event" in extension]
    assert [event["type"] for event in events] == ["turn", "documents", "turn"]


def test_a_stream_sends_each_turn_when_it_happens() -> None:
    release = threading.Event()

    def script(episode: int, turn: int) -> str:
        if turn == 1:
            release.wait(10)
        return SEARCH if turn == 0 else ANSWER

    with served(script) as (url, _), httpx2.Client() as http:
        request = {"messages": QUESTION, "stream": True}
        with http.stream("POST", f"{url}/v1/chat/completions", json=request, timeout=10) as response:
            seen = ""
            for text in response.iter_text():
                seen += text
                if '"documents"' in seen and not release.is_set():
                    assert "Ada wrote" in seen  # while the policy still waits to write its answer
                    assert '"content": "Ada"' not in seen
                    release.set()
    assert seen.endswith("data: [DONE]\n\n")


def test_the_asynchronous_client_may_ask_many_questions_at_once(url: str) -> None:
    import asyncio

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
            asked = [client.chat.completions.create(model="agent", messages=QUESTION) for _ in range(20)]
            return [reply.choices[0].message.content for reply in await asyncio.gather(*asked)]

    assert asyncio.run(ask_all()) == ["Ada"] * 20


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["agent"]
    assert client.models.retrieve("agent").id == "agent"
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve("other")


def test_mistakes_come_back_as_the_client_s_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="n = 3 is not supported"):
        client.chat.completions.create(model="agent", messages=QUESTION, n=3)
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="context holds"):
        client.chat.completions.create(model="agent", messages=[{"role": "user", "content": "x" * 6000}])


def test_a_question_without_an_answer_is_explained() -> None:
    with served(lambda episode, turn: "no tags") as (url, _):
        reply = httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION}).json()
    assert "neither a query nor an answer" in reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["message"]["reasoning_content"] == "no tags\n"
    assert reply["calibadv"]["answer"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_search_is_an_error_that_may_be_tried_again(stream: bool) -> None:
    retriever = ListRetriever([ADA])
    retriever.down = True
    with served(retriever=retriever) as (url, _):
        reply = httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION, "stream": stream})
    if stream:
        last = json.loads(reply.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert "a search failed" in last["error"]["message"]
    else:
        assert reply.status_code == 503
        assert reply.headers["retry-after"]
        assert "a search failed" in reply.json()["error"]["message"]


def test_a_token_is_asked_for_where_it_was_set() -> None:
    with served(token="secret") as (url, _):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
            assert client.chat.completions.create(model="agent", messages=QUESTION).choices[0].message.content == "Ada"
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="guess") as client,
            pytest.raises(openai.AuthenticationError) as error,
        ):
            client.models.list()
        assert "secret" not in str(error.value)
        assert httpx2.get(f"{url}/metrics").status_code == 401
        assert httpx2.get(f"{url}/health").status_code == 200


def test_other_sites_cannot_ask_behind_a_browser_s_back(url: str) -> None:
    body = json.dumps({"messages": QUESTION})
    reply = httpx2.post(f"{url}/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415
    assert "access-control-allow-origin" not in httpx2.get(f"{url}/health", headers={"Origin": "http://x"}).headers


def test_a_large_body_is_refused() -> None:
    with served(max_body_bytes=1000) as (url, _):
        request = {"messages": [{"role": "user", "content": "x" * 2000}]}
        assert httpx2.post(f"{url}/v1/chat/completions", json=request).status_code == 413


def test_more_questions_than_allowed_get_503_and_when_to_come_back() -> None:
    release = threading.Event()

    def wait(episode: int, turn: int) -> str:
        release.wait(10)
        return ANSWER

    with served(wait, max_conversations=1) as (url, agent), concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json={"messages": QUESTION}, timeout=10)
        while agent.num_alive == 0:
            time.sleep(0.01)
        second = httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION})
        assert second.status_code == 503
        assert second.headers["retry-after"]
        release.set()
        assert first.result().json()["choices"][0]["message"]["content"] == "Ada"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(stream: bool) -> None:
    release = threading.Event()

    def wait(episode: int, turn: int) -> str:
        release.wait(10)
        return SEARCH

    with served(wait, max_conversations=1) as (url, agent):
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION, "stream": stream}, timeout=0.3)
        release.set()
        end = time.monotonic() + 10
        while agent.num_alive and time.monotonic() < end:
            time.sleep(0.02)
        assert agent.num_alive == 0
        assert "calibadv_agent_cancelled_total 1.0" in httpx2.get(f"{url}/metrics").text


def test_metrics_count_questions_searches_and_tokens() -> None:
    with served() as (url, _):
        httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION})
        text = httpx2.get(f"{url}/metrics").text
    assert 'calibadv_agent_questions_total{stop_reason="answer"} 1.0' in text
    assert "calibadv_agent_searches_total 1.0" in text
    assert f'calibadv_agent_tokens_total{{kind="completion"}} {float(len(SEARCH) + len(ANSWER))}' in text


def test_a_failed_policy_shows_in_health() -> None:
    def fail(episode: int, turn: int) -> str:
        from calibadv.errors import PolicyError

        raise PolicyError("logits are not finite")

    with served(fail) as (url, _):
        assert httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION}).status_code == 500
        reply = httpx2.get(f"{url}/health")
    assert (reply.status_code, reply.json()["status"]) == (503, "failed")


def test_a_port_in_use_is_said_before_anything_is_loaded() -> None:
    config = AgentServerConfig(port=0)
    with claim_address(config) as listener:
        listener.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            claim_address(AgentServerConfig(port=listener.getsockname()[1]))


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    reply = httpx2.get(url)
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "http://" not in reply.text
    assert "https://" not in reply.text
    assert "__SETTINGS__" not in reply.text


@pytest.mark.parametrize("temperature", [10**400, 1e-320])
def test_numbers_that_would_overflow_harm_nobody(url: str, temperature: float) -> None:
    body = {"messages": [{"role": "user", "content": "q?"}], "temperature": temperature}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert answer.status_code == (400 if temperature > 1 else 200)
    assert "error" in answer.json() or answer.json()["calibadv"]["answer"] == "Ada"


def test_unknown_paths_and_methods_are_refused_in_the_form_of_the_other_errors(url: str) -> None:
    for answer, status in ((httpx2.get(f"{url}/v1/nope"), 404), (httpx2.get(f"{url}/v1/chat/completions"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["type"]


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with served(body_timeout_s=0.2) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert b" 408 " in connection.recv(1000).splitlines()[0]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", ""])
def test_a_name_of_another_site_that_leads_here_is_refused(url: str, host: str) -> None:
    reply = httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION}, headers={"Host": host})
    assert reply.status_code == 403
    assert "answers to 127.0.0.1" in reply.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost:1234", "[::1]:80", "LOCALHOST"])
def test_every_name_of_this_machine_is_fine(url: str, host: str) -> None:
    assert httpx2.get(f"{url}/v1/models", headers={"Host": host}).status_code == 200


def test_behind_a_proxy_the_token_decides_instead_of_the_name() -> None:
    with served(token="secret") as (url, _):
        headers = {"Host": "agents.example", "Authorization": "Bearer secret"}
        assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 200
