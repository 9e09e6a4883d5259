"""From what a question file says to searches: every kind of row."""

from typing import Any

import pytest

from calibadv.training.sft.plans import Plan, key_words, make_plan
from calibadv.trajectory import Question


def plan_of(asked: Question) -> Plan:
    plan = make_plan(asked)
    assert plan is not None
    return plan


def question(text: str = "Who?", answers: tuple[str, ...] = ("Russ Meyer",), **metadata: Any) -> Question:
    return Question(id="q", text=text, golden_answers=answers, dataset="d", metadata=metadata)


def test_triples_that_lead_on_are_a_chain() -> None:
    steps = [
        {"subject": "Lorna (film)", "relation": "director", "object": "Russ Meyer"},
        {"subject": "Russ Meyer", "relation": "date of birth", "object": "March 21, 1922"},
    ]
    plan = plan_of(
        question(
            "When was the director of Lorna born?",
            decomposition=steps,
            supporting_titles=["Lorna (film)", "Russ Meyer"],
            supporting_ids=[["7"], ["9", "10"]],
            sub_questions=[{"question": "Who directed Lorna?"}, {"question": "When was Russ Meyer born?"}],
        )
    )
    assert plan.kind == "chain"
    assert plan.hops[0].queries == (
        "Lorna (film) director", "Who directed Lorna", "director of Lorna (film)", "Lorna (film)",
    )  # fmt: skip
    assert plan.hops[1].ids == {"9", "10"}
    assert plan.hops[1].need == "the date of birth of Russ Meyer"


def test_triples_side_by_side_are_a_comparison() -> None:
    steps = [
        {"subject": "A Film", "relation": "publication date", "object": "1950"},
        {"subject": "Another Film", "relation": "publication date", "object": "1960"},
    ]
    assert plan_of(question(decomposition=steps)).kind == "comparison"


def test_sub_questions_refer_to_earlier_answers() -> None:
    steps = [
        {"question": "Lorna >> director", "answer": "Russ Meyer", "supporting_title": "Lorna"},
        {"question": "where did #1 live?", "answer": "Hollywood", "supporting_title": "Russ Meyer"},
    ]
    plan = plan_of(question(decomposition=steps))
    assert [hop.queries[0] for hop in plan.hops] == ["Lorna director", "where did Russ Meyer live"]
    assert plan.hops[0].subject == "Lorna"
    assert plan.hops[1].subject == "Russ Meyer"
    assert plan.hops[1].queries[1] == "Russ Meyer live"


@pytest.mark.parametrize("reference", ["#0", "#2", "#9"])
def test_a_reference_to_no_earlier_step_makes_no_plan(reference: str) -> None:
    steps = [{"question": "a?", "answer": "b"}, {"question": f"where is {reference}?", "answer": "c"}]
    assert make_plan(question(decomposition=steps)) is None


def test_titles_are_asked_for_in_the_order_of_the_question() -> None:
    plan = plan_of(
        question(
            "Which author of Rock Springs was born in 1944?",
            supporting_titles=["Richard Ford", "Rock Springs (short story collection)"],
            supporting_ids=[["1"], ["2"]],
        )
    )
    assert [hop.subject for hop in plan.hops] == ["Rock Springs", "Richard Ford"]
    assert plan.hops[0].title == "Rock Springs (short story collection)"
    assert plan.kind == "chain"
    both = plan_of(question("Is Oslo larger than Bergen?", supporting_titles=["Bergen", "Oslo"]))
    assert both.kind == "comparison"
    assert [hop.subject for hop in both.hops] == ["Oslo", "Bergen"]


def test_a_single_hop_question_is_its_own_query() -> None:
    plan = plan_of(question("Who is the writer of A Walk to Remember?", evidence_in_rollout=True))
    assert plan.kind == "single"
    assert plan.hops[0].queries == ("writer Walk Remember", "Who is the writer of A Walk to Remember")


@pytest.mark.parametrize(
    "metadata", [{"titles_from": "unknown", "supporting_titles": None}, {"evidence_in_rollout": False}]
)
def test_a_row_that_says_too_little_has_no_plan(metadata: dict[str, Any]) -> None:
    assert make_plan(question(**metadata)) is None


@pytest.mark.parametrize("steps", ["text", [], [1, 2], [{"question": "x"}], [{"subject": "x"}]])
def test_a_decomposition_of_another_kind_is_no_decomposition(steps: Any) -> None:
    assert plan_of(question("Who wrote it?", decomposition=steps)).kind == "single"


def test_key_words_are_what_a_search_engine_needs() -> None:
    assert key_words("In which year was J. R. R. Tolkien's book published?") == "year J. R. R. Tolkien's book published"
