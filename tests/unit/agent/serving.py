"""A real agent server on a loopback port, for the tests beside this file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from calibadv.agent import Agent
from calibadv.agent.server.app import create_app
from calibadv.agent.server.config import AgentServerConfig
from calibadv.agent.server.run import claim_address
from calibadv.io.serving import url_of
from calibadv.retrieval import ListRetriever
from calibadv.rollout import CharTokenizer, RolloutConfig, ScriptedPolicy
from calibadv.trajectory import Document

ADA = Document(id="1", title="Ada Lovelace", text="Ada wrote the first program.")
EVIL = Document(id="2", title="<img src=x onerror=window.pwned=1>", text="</script><script>window.pwned = 1</script>")
SEARCH = "I look it up.</think><search>first program</search>"
ANSWER = "It says so.</think><answer>Ada</answer>"
Script = Callable[[int, int], str]


def search_then_answer(episode: int, turn: int) -> str:
    return SEARCH if turn == 0 else ANSWER


@contextmanager
def served(
    script: Script = search_then_answer, *, retriever: ListRetriever | None = None, **settings: object
) -> Iterator[tuple[str, Agent]]:
    """The server's URL and its agent."""
    config = AgentServerConfig(port=0, model_name="agent", **settings)  # type: ignore[arg-type]
    tokenizer = CharTokenizer()
    agent = Agent(
        policy=ScriptedPolicy(script, tokenizer=tokenizer),
        retriever=retriever or ListRetriever([ADA, EVIL]),
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question", max_turn_tokens=200, max_context_tokens=5000),
        max_conversations=config.max_conversations,
    )
    listener = claim_address(config)
    server = uvicorn.Server(uvicorn.Config(create_app(agent, config=config), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield url_of(listener, host=config.host), agent
    finally:
        server.should_exit = True
        thread.join(10)
        agent.close(timeout_s=5)
        listener.close()
