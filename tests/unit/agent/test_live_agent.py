"""What one can rely on when asking an agent: events in order, several questions at once, and an end to everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from calibadv.agent import AgentBusy, DocumentsFound, Finished, LiveAgent, TurnWritten
from calibadv.agent.events import as_json
from calibadv.errors import ConfigError, PolicyError, RetrieverError
from calibadv.retrieval import ListRetriever
from calibadv.retrieval.base import Hit
from calibadv.rollout import CharTokenizer, RolloutConfig, ScriptedPolicy
from calibadv.trajectory import ActionKind, Document, StopReason

ADA = Document(id="1", title="Ada Lovelace", text="Ada wrote the first program.")
ISLE = Document(id="2", title="Wight", text="An island.")
SEARCH = "I look it up.</think><search>first program</search>"
ANSWER = "It says so.</think><answer>Ada</answer>"


def make_agent(
    script: Callable[[int, int], str] | list[list[str]], *, retriever: ListRetriever | None = None, **settings: object
) -> LiveAgent:
    tokenizer = CharTokenizer()
    return LiveAgent(
        policy=ScriptedPolicy(script, tokenizer=tokenizer),
        retriever=retriever or ListRetriever([ADA, ISLE]),
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question", max_turn_tokens=200, **settings),  # type: ignore[arg-type]
    )


@pytest.fixture
def agent() -> Iterator[LiveAgent]:
    with make_agent(lambda episode, turn: SEARCH if turn == 0 else ANSWER) as agent:
        yield agent


def test_events_arrive_in_the_order_in_which_things_happen(agent: LiveAgent) -> None:
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


def test_sources_say_which_document_holds_the_answer(agent: LiveAgent) -> None:
    *_, end = agent.ask("who wrote the first program?")
    assert isinstance(end, Finished)
    assert [(s.document.id, s.turn, s.holds_answer) for s in end.sources] == [("1", 0, True), ("2", 0, False)]


def test_usage_counts_every_token_once(agent: LiveAgent) -> None:
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


def test_questions_can_come_long_after_the_first_ones_are_answered(agent: LiveAgent) -> None:
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
        def search(self, queries: object, k: int) -> list[list[object]]:
            raise KeyError("index")

    tokenizer = CharTokenizer()
    with LiveAgent(
        policy=ScriptedPolicy(lambda episode, turn: SEARCH, tokenizer=tokenizer),
        retriever=Broken(),  # type: ignore[arg-type]
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question"),
    ) as agent:
        *_, end = agent.ask("who?")
    assert isinstance(end, Finished)
    assert "KeyError" in (end.trajectory.error or "")


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

    agent = make_agent(wait)
    agent.max_conversations = 2
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
    retriever = ListRetriever([ADA], seconds=0.6)
    with make_agent(lambda episode, turn: SEARCH, retriever=retriever, deadline_s=0.2) as agent:
        *_, end = agent.ask("who?")
    assert isinstance(end, Finished)
    assert end.trajectory.stop_reason is StopReason.DEADLINE
    assert "deadline_s" in (end.explanation() or "")


def test_a_question_longer_than_the_context_is_refused_at_once() -> None:
    with make_agent([[ANSWER]], max_context_tokens=50) as agent, pytest.raises(ConfigError, match="the context holds"):
        agent.ask("why? " * 20)


def test_the_same_seed_names_the_same_draws(agent: LiveAgent) -> None:
    requests = [agent.ask("who?", seed=5).episode for _ in range(2)]
    assert requests[0].request().seed == requests[1].request().seed


def test_an_invalid_turn_is_shown_as_written_and_explained() -> None:
    with make_agent([["no tags at all"]]) as agent:
        turn, end = agent.ask("who?")
    assert as_json(turn)["text"] == "no tags at all"
    assert isinstance(end, Finished)
    assert end.explanation() == "the model wrote neither a query nor an answer"
    assert as_json(end)["answer"] is None


def test_retriever_errors_keep_their_words(agent: LiveAgent) -> None:
    class Gone:
        def search(self, queries: object, k: int) -> list[list[object]]:
            raise RetrieverError("server on port 8000 is gone")

    agent.retriever = Gone()  # type: ignore[assignment]
    *_, end = agent.ask("who?")
    assert isinstance(end, Finished)
    assert "port 8000 is gone" in (end.trajectory.error or "")


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

    def search(self, queries: list[str], k: int) -> list[list[Hit]]:
        self.wake.wait(20)
        return [[] for _ in queries]


@pytest.fixture
def asleep() -> Iterator[Asleep]:
    retriever = Asleep()
    yield retriever
    retriever.wake.set()


def test_a_document_that_cannot_be_encoded_ends_its_conversation_alone() -> None:
    tokenizer = Brittle()
    with LiveAgent(
        policy=ScriptedPolicy(lambda episode, turn: SEARCH if turn == 0 else ANSWER, tokenizer=tokenizer),
        retriever=ListRetriever([Document(id="1", title="", text="unreadable")]),
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question", max_turn_tokens=200),
    ) as agent:
        *_, end = agent.ask("q?")
        assert isinstance(end, Finished)
        assert end.trajectory.stop_reason is StopReason.SEARCH_FAILED
        assert "TypeError" in str(end.explanation())
        assert agent.failure is None


def test_a_listener_that_raises_ends_its_conversation_alone(agent: LiveAgent, caplog: pytest.LogCaptureFixture) -> None:
    def listen(event: object) -> None:
        raise ValueError("no more")

    agent.ask("q?", listener=listen)
    *_, end = agent.ask("q?")
    assert isinstance(end, Finished)
    assert end.answer == "Ada"
    assert agent.failure is None
    assert "no more" in caplog.text


def test_a_conversation_cancelled_elsewhere_ends_for_whoever_follows_it(asleep: Asleep) -> None:
    with make_agent([[SEARCH, ANSWER]], retriever=asleep) as agent:  # type: ignore[arg-type]
        conversation = agent.ask("q?")
        events = iter(conversation)
        assert isinstance(next(events), TurnWritten)
        conversation.cancel()
        with pytest.raises(PolicyError, match="given up"):
            next(events)


def test_the_deadline_is_that_of_the_question(asleep: Asleep) -> None:
    with make_agent([[SEARCH, ANSWER]], retriever=asleep) as agent:  # type: ignore[arg-type]
        *_, end = agent.ask("q?", config=replace(agent.config, deadline_s=0.3))
    assert isinstance(end, Finished)
    assert end.trajectory.stop_reason is StopReason.DEADLINE


def test_an_error_inside_of_with_does_not_wait_for_answers(asleep: Asleep) -> None:
    def interrupted() -> None:
        with make_agent([[SEARCH, ANSWER]], retriever=asleep) as agent:  # type: ignore[arg-type]
            next(iter(agent.ask("q?")))
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 5


def test_half_a_character_in_a_question_is_refused(agent: LiveAgent) -> None:
    with pytest.raises(ConfigError, match="half of a surrogate pair"):
        agent.ask("caf\udce9?")
