"""What one can rely on when asking an agent: events in order, several questions at once, and an end to everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from calibadv.agent import Agent, AgentBusy, DocumentsFound, Finished, TurnWritten
from calibadv.agent.events import as_json
from calibadv.errors import ConfigError, PolicyError, RetrieverError
from calibadv.io.clock import Clock, FakeClock
from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.rollout import (
    CharTokenizer,
    Completion,
    GenerationRequest,
    Policy,
    RequestQueue,
    RolloutConfig,
    ScriptedPolicy,
)
from calibadv.trajectory import ActionKind, Document, StopReason

ADA = Document(id="1", title="Ada Lovelace", text="Ada wrote the first program.")
ISLE = Document(id="2", title="Wight", text="An island.")
SEARCH = "I look it up.</think><search>first program</search>"
ANSWER = "It says so.</think><answer>Ada</answer>"


Script = Callable[[int, int], str] | list[list[str]]


class RecordingPolicy(ScriptedPolicy):
    """Keeps the requests it gets."""

    def __init__(self, script: Script, *, tokenizer: CharTokenizer) -> None:
        super().__init__(script, tokenizer=tokenizer)
        self.requests: list[GenerationRequest] = []

    def generate(self, requests: RequestQueue) -> Iterator[Completion]:
        kept = self.requests

        class Keeping:
            def take(self, room: int, *, idle: bool) -> list[GenerationRequest]:
                taken = requests.take(room, idle=idle)
                kept.extend(taken)
                return taken

            def ended(self) -> list[int]:
                return requests.ended()

        return super().generate(Keeping())


def make_agent(
    script: Script,
    *,
    retriever: Retriever | None = None,
    policy: Policy | None = None,
    clock: Clock | None = None,
    tokenizer: CharTokenizer | None = None,
    max_conversations: int = 64,
    **settings: Any,
) -> Agent:
    tokenizer = tokenizer or CharTokenizer()
    rollout: dict[str, Any] = {"prompt": "question", "max_turn_tokens": 200, "search_retries": 0}
    return Agent(
        policy=policy or ScriptedPolicy(script, tokenizer=tokenizer),
        retriever=retriever or ListRetriever([ADA, ISLE]),
        tokenizer=tokenizer,
        config=RolloutConfig(**(rollout | settings)),
        max_conversations=max_conversations,
        clock=clock or FakeClock(),
    )


def ask(agent: Agent, text: str = "who?", **settings: Any) -> Finished:
    *_, end = agent.ask(text, **settings)
    assert isinstance(end, Finished)
    return end


@pytest.fixture
def agent() -> Iterator[Agent]:
    with make_agent(lambda episode, turn: SEARCH if turn == 0 else ANSWER) as agent:
        yield agent


def test_events_arrive_in_the_order_in_which_things_happen(agent: Agent) -> None:
    events = list(agent.ask("who wrote the first program?"))
    assert [type(event) for event in events] == [TurnWritten, DocumentsFound, TurnWritten, Finished]
    first, found, last, end = events
    assert isinstance(first, TurnWritten)
    assert isinstance(found, DocumentsFound)
    assert isinstance(last, TurnWritten)
    assert isinstance(end, Finished)
    assert (first.turn, first.action.kind, first.thinking) == (0, ActionKind.SEARCH, "I look it up.")
    assert (found.turn, found.query, found.documents) == (0, "first program", (ADA, ISLE))
    assert (last.turn, last.action.content) == (1, "Ada")
    assert end.answer == "Ada"
    assert end.explanation() is None


def test_sources_say_which_document_holds_the_answer(agent: Agent) -> None:
    *_, end = agent.ask("who wrote the first program?")
    assert isinstance(end, Finished)
    assert [(s.document.id, s.turn, s.holds_answer) for s in end.sources] == [("1", 0, True), ("2", 0, False)]


def test_usage_counts_every_token_once(agent: Agent) -> None:
    *_, end = agent.ask("who?")
    assert isinstance(end, Finished)
    turns = end.trajectory.turns
    assert end.completion_tokens == len(SEARCH) + len(ANSWER)
    assert end.prompt_tokens == len("who?<think>") + len(turns[0].observation)
    usage = as_json(end)["usage"]
    assert usage == {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def test_many_questions_are_answered_at_once_each_with_its_own_events() -> None:
    with make_agent(lambda episode, turn: SEARCH if turn == 0 else f"so</think><answer>{episode}</answer>") as agent:
        conversations = [agent.ask(f"question {n}") for n in range(20)]
        answers = [list(conversation)[-1] for conversation in conversations]
    assert [end.answer for end in answers if isinstance(end, Finished)] == [str(n) for n in range(20)]
    assert [end.trajectory.question.text for end in answers if isinstance(end, Finished)][7] == "question 7"


def test_questions_can_come_long_after_the_first_ones_are_answered(agent: Agent) -> None:
    for _ in range(3):
        *_, end = agent.ask("again?")
        assert isinstance(end, Finished)
        assert end.answer == "Ada"
        assert agent.num_alive == 0


def test_a_failed_search_ends_the_conversation_and_says_so() -> None:
    retriever = ListRetriever([ADA])
    retriever.down = True
    with make_agent(lambda episode, turn: SEARCH, retriever=retriever) as agent:
        *_, end = agent.ask("who?")
    assert isinstance(end, Finished)
    assert end.answer is None
    assert end.trajectory.stop_reason is StopReason.SEARCH_FAILED
    assert "a search failed" in (end.explanation() or "")


def test_a_retriever_that_raises_something_else_does_not_leave_the_asker_waiting() -> None:
    class Broken:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise KeyError("index")

    with make_agent(lambda episode, turn: SEARCH, retriever=Broken()) as agent:
        assert "KeyError" in (ask(agent).trajectory.error or "")


def test_a_failed_policy_is_heard_of_by_those_who_wait_and_those_who_come_later() -> None:
    def fail(episode: int, turn: int) -> str:
        raise PolicyError("logits are not finite")

    agent = make_agent(fail)
    with pytest.raises(PolicyError, match="not finite"):
        list(agent.ask("who?"))
    with pytest.raises(PolicyError, match="not finite"):
        agent.ask("who else?")
    agent.close()


def test_more_questions_than_allowed_are_refused_not_queued_without_end() -> None:
    release = threading.Event()

    def wait(episode: int, turn: int) -> str:
        release.wait(10)
        return ANSWER

    agent = make_agent(wait, max_conversations=2)
    first, second = agent.ask("1"), agent.ask("2")
    with pytest.raises(AgentBusy, match="2 questions"):
        agent.ask("3")
    release.set()
    assert isinstance(list(first)[-1], Finished)
    assert isinstance(list(second)[-1], Finished)
    agent.close()


def test_a_cancelled_conversation_makes_room_and_stops_searching() -> None:
    asked = threading.Event()
    release = threading.Event()

    def wait(episode: int, turn: int) -> str:
        asked.set()
        release.wait(10)
        return SEARCH

    retriever = ListRetriever([ADA])
    with make_agent(wait, retriever=retriever) as agent:
        conversation = agent.ask("who?")
        assert asked.wait(10)
        conversation.cancel()
        release.set()
    assert agent.num_alive == 0
    assert len(retriever.queries) <= 1


def test_closing_finishes_what_was_begun_and_refuses_what_comes_later() -> None:
    agent = make_agent(lambda episode, turn: SEARCH if turn == 0 else ANSWER)
    conversation = agent.ask("who?")
    agent.close()
    assert isinstance(list(conversation)[-1], Finished)
    with pytest.raises(PolicyError, match="shutting down"):
        agent.ask("who else?")


def test_a_question_that_takes_too_long_ends_with_its_deadline() -> None:
    clock = FakeClock()

    def search(query: str) -> list[Document]:
        clock.time += 6.0
        return [ADA]

    with make_agent([[SEARCH, ANSWER]], retriever=ListRetriever(search), clock=clock, deadline_s=5.0) as agent:
        end = ask(agent)
    assert end.trajectory.stop_reason is StopReason.DEADLINE
    assert "deadline_s" in (end.explanation() or "")


def test_a_question_longer_than_the_context_is_refused_at_once() -> None:
    with make_agent([[ANSWER]], max_context_tokens=50) as agent, pytest.raises(ConfigError, match="the context holds"):
        agent.ask("why? " * 20)


def test_the_same_seed_names_the_same_draws() -> None:
    policy = RecordingPolicy(lambda episode, turn: ANSWER, tokenizer=CharTokenizer())
    with make_agent([], policy=policy) as agent:
        for seed in (5, 5, 6, None):
            ask(agent, seed=seed)
    first, same, other, unnamed = (request.seed for request in policy.requests)
    assert first == same
    assert len({first, other, unnamed}) == 3


def test_an_invalid_turn_is_shown_as_written_and_explained() -> None:
    with make_agent([["no tags at all"]]) as agent:
        turn, end = agent.ask("who?")
    assert as_json(turn)["text"] == "no tags at all"
    assert isinstance(end, Finished)
    assert end.explanation() == "the model wrote neither a query nor an answer"
    assert as_json(end)["answer"] is None


def test_retriever_errors_keep_their_words() -> None:
    class Gone:
        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            raise RetrieverError("server on port 8000 is gone")

    with make_agent([[SEARCH]], retriever=Gone()) as agent:
        assert "port 8000 is gone" in (ask(agent).trajectory.error or "")


class Brittle(CharTokenizer):
    """Raises over some texts, as fast tokenizers do over half a surrogate pair."""

    def encode(self, text: str) -> list[int]:
        if "unreadable" in text:
            raise TypeError("TextInputSequence must be str")
        return super().encode(text)


class Asleep:
    """A retriever that answers when it is told to."""

    def __init__(self) -> None:
        self.wake = threading.Event()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.wake.wait(60)
        return [[] for _ in queries]


@pytest.fixture
def asleep() -> Iterator[Asleep]:
    retriever = Asleep()
    yield retriever
    retriever.wake.set()


def test_a_document_that_cannot_be_encoded_ends_its_conversation_alone() -> None:
    retriever = ListRetriever([Document(id="1", title="", text="unreadable")])
    with make_agent([[SEARCH, ANSWER]], retriever=retriever, tokenizer=Brittle()) as agent:
        end = ask(agent)
        assert end.trajectory.stop_reason is StopReason.SEARCH_FAILED
        assert "TypeError" in str(end.explanation())
        assert agent.failure is None


def test_a_listener_that_raises_ends_its_conversation_alone(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    def listen(event: object) -> None:
        raise ValueError("no more")

    agent.ask("q?", listener=listen)
    *_, end = agent.ask("q?")
    assert isinstance(end, Finished)
    assert end.answer == "Ada"
    assert agent.failure is None
    assert "no more" in caplog.text


def test_a_conversation_cancelled_elsewhere_ends_for_whoever_follows_it(asleep: Asleep) -> None:
    with make_agent([[SEARCH, ANSWER]], retriever=asleep) as agent:
        conversation = agent.ask("q?")
        events = iter(conversation)
        assert isinstance(next(events), TurnWritten)
        conversation.cancel()
        with pytest.raises(PolicyError, match="given up"):
            next(events)


def test_the_deadline_is_that_of_the_question() -> None:
    clock = FakeClock()

    def search(query: str) -> list[Document]:
        clock.time += 6.0
        return [ADA]

    with make_agent([[SEARCH, ANSWER]] * 2, retriever=ListRetriever(search), clock=clock) as agent:
        hasty = ask(agent, config=replace(agent.config, deadline_s=5.0))
        patient = ask(agent)
    assert hasty.trajectory.stop_reason is StopReason.DEADLINE
    assert patient.trajectory.stop_reason is StopReason.ANSWER


def test_an_error_inside_of_with_does_not_wait_for_answers(asleep: Asleep) -> None:
    def interrupted() -> None:
        with make_agent([[SEARCH, ANSWER]], retriever=asleep) as agent:
            next(iter(agent.ask("q?")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not asleep.wake.is_set()  # it came back although the search did not


def test_half_a_character_in_a_question_is_refused(agent: Agent) -> None:
    with pytest.raises(ConfigError, match="half of a surrogate pair"):
        agent.ask("caf\udce9?")


# Every setting of the rollout holds for an agent too. Each case is an agent's settings and what they must lead to.

Case = Callable[[], None]


def case_prompt() -> None:
    with make_agent([[ANSWER]], prompt="search") as agent:
        assert len(ask(agent).trajectory.prompt) > 100


class Templated(CharTokenizer):
    """Has a chat template that shows its value ``mode``."""

    def __init__(self, mode: str = "none") -> None:
        self.mode = mode

    def chat(self, messages: list[dict[str, str]]) -> str:
        return f"[{self.mode}] {messages[-1]['content']}"

    def with_template_kwargs(self, kwargs: dict[str, str]) -> Templated:
        return Templated(**kwargs)


def case_chat_template_kwargs() -> None:
    tokenizer = Templated()
    policy = ScriptedPolicy([[ANSWER]], tokenizer=tokenizer)
    config = RolloutConfig(prompt="question", chat_template_kwargs={"mode": "thinking"})
    with Agent(policy=policy, retriever=ListRetriever([ADA]), tokenizer=tokenizer, config=config) as agent:
        assert ask(agent).trajectory.prompt.startswith("[thinking] who?")


def case_think_prefill() -> None:
    with make_agent([[ANSWER]], think_prefill=False) as agent:
        assert ask(agent).trajectory.prompt == "who?"


def case_max_searches() -> None:
    with make_agent([[SEARCH]], max_searches=0) as agent:
        assert ask(agent).trajectory.stop_reason is StopReason.SEARCH_LIMIT


def case_top_k() -> None:
    with make_agent([[SEARCH, ANSWER]], top_k=1) as agent:
        assert ask(agent).trajectory.turns[0].documents == (ADA,)


def case_on_invalid() -> None:
    with make_agent([["hm", ANSWER]], on_invalid="retry") as agent:
        assert ask(agent).answer == "Ada"


def case_max_turn_tokens() -> None:
    with make_agent([[ANSWER]], max_turn_tokens=5) as agent:
        assert ask(agent).trajectory.turns[0].truncated


def case_max_observation_tokens() -> None:
    with make_agent([[SEARCH, ANSWER]], max_observation_tokens=60) as agent:
        assert len(ask(agent).trajectory.turns[0].observation_token_ids) <= 60


def case_max_context_tokens() -> None:
    with make_agent([[SEARCH, ANSWER]], max_context_tokens=80) as agent:
        assert ask(agent).trajectory.stop_reason is StopReason.CONTEXT_LENGTH


def case_sampling() -> None:
    policy = RecordingPolicy([[ANSWER]], tokenizer=CharTokenizer())
    with make_agent([], policy=policy, temperature=0.5, top_p=0.25) as agent:
        ask(agent)
    assert (policy.requests[0].params.temperature, policy.requests[0].params.top_p) == (0.5, 0.25)


def case_concurrency() -> None:
    policy = RecordingPolicy([[SEARCH, ANSWER]] * 3, tokenizer=CharTokenizer())
    with make_agent([], policy=policy, concurrency=1) as agent:
        for conversation in [agent.ask("who?") for _ in range(3)]:
            list(conversation)
    assert [request.episode for request in policy.requests] == [0, 0, 1, 1, 2, 2]


def case_search_threads() -> None:
    both = threading.Barrier(2)

    def search(query: str) -> list[Document]:
        both.wait(20)  # passes only when two searches are under way at once
        return [ADA]

    with make_agent([[SEARCH, ANSWER]] * 2, retriever=ListRetriever(search), search_threads=2) as agent:
        first = agent.ask("who?")
        events = iter(first)
        next(events)
        assert ask(agent).answer == "Ada"
        assert isinstance(list(events)[-1], Finished)


def case_search_retries() -> None:
    clock = FakeClock()
    with make_agent(
        [[SEARCH, ANSWER]], retriever=ListRetriever([ADA], fail_first=2), clock=clock, search_retries=2
    ) as a:
        assert ask(a).answer == "Ada"
    assert len(clock.waits) == 2


def case_search_timeout_s() -> None:
    asleep = Asleep()
    with make_agent([[SEARCH]], retriever=asleep, search_timeout_s=0.05) as agent:
        assert "search_timeout_s = 0.05" in str(ask(agent).trajectory.error)
    asleep.wake.set()


HONOURED: dict[str, Case] = {
    name.removeprefix("case_"): case for name, case in globals().items() if name.startswith("case_")
} | {
    "temperature": case_sampling,
    "top_p": case_sampling,
    "deadline_s": test_a_question_that_takes_too_long_ends_with_its_deadline,
}
IN_TICKS = {"search_window", "search_overlap"}
"""Counted in ticks of a busy policy: the scheduler's tests see to them."""


def test_every_setting_of_the_rollout_has_a_case() -> None:
    assert {setting.name for setting in fields(RolloutConfig)} <= {*HONOURED, *IN_TICKS}


@pytest.mark.parametrize("name", HONOURED)
def test_the_agent_honours_every_setting_of_the_rollout(name: str) -> None:
    HONOURED[name]()
