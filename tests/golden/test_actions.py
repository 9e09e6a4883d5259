"""Parity of truncation, action and observation.

Truncation, action and content agree in every record. Where the observation differs on purpose:

==================================================  ========================  ==========================================
record                                              the reference             ours
==================================================  ========================  ==========================================
a document whose title line has no quotes           keeps it as it is         quotes every title
quirk "tags inside a document are passed through"   passes them through       replaces the characters of forged tags and
                                                                              document markers, one for one
quirk "the message is appended although the         appends it, masked out    nothing is appended; on_invalid="retry"
episode ends" (every invalid action)                                          has a message of its own
`final_turn` of a search                            an empty information      no observation: the engine's matter, see
                                                    block, later dropped      test_rollout_loop.py
==================================================  ========================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from calibadv.dialogue.observation import render_observation
from calibadv.dialogue.parse import cut_at_stop, read_turn
from calibadv.tags import INFORMATION_CLOSE, ROLE_TAG
from calibadv.trajectory import ActionKind, Document

pytestmark = pytest.mark.golden

PASSED_THROUGH = "tags inside a document are passed through"
REPLACED = {("<", "("), ("(", "[")}


def documents_of(record: dict[str, Any]) -> list[Document]:
    documents = []
    for raw in record["documents"]:
        title, _, text = raw.partition("\n")
        documents.append(Document(id=raw, title=title, text=text))
    return documents


def with_quoted_titles(observation: str, documents: list[Document]) -> str:
    """The reference's observation with quotes around the titles that had none."""
    for rank, document in enumerate(documents, start=1):
        if not document.title.startswith('"'):
            marker = f"Doc {rank}(Title: "
            observation = observation.replace(f"{marker}{document.title})", f'{marker}"{document.title}")', 1)
    return observation


def test_truncation_and_action_equal_the_reference(golden: Callable[[str], Any]) -> None:
    for record in golden("actions.jsonl"):
        assert cut_at_stop(record["raw"]) == record["truncated"], record["id"]
        action = read_turn(record["truncated"], think_open=False).action
        kind = None if action.kind is ActionKind.INVALID else action.kind.value
        assert (kind, action.content) == (record["action"], record["content"]), record["id"]
        assert (action.kind is ActionKind.SEARCH) == record["is_search"]
        assert (action.kind is ActionKind.ANSWER) == (record["done"] and record["valid_action"])
        assert (action.kind is not ActionKind.INVALID) == record["valid_action"]
        if record["query_sent"] is not None:
            assert action.content == record["query_sent"]


def test_whether_the_prompt_opened_the_thinking_does_not_change_the_action(golden: Callable[[str], Any]) -> None:
    for record in golden("actions.jsonl"):
        opened, closed = (read_turn(record["truncated"], think_open=value).action for value in (True, False))
        assert opened == closed


@pytest.mark.parametrize("think_prefill", [False, True])
def test_observation_equals_the_reference_but_for_titles_and_forged_tags(
    think_prefill: bool, golden: Callable[[str], Any]
) -> None:
    for record in golden("actions.jsonl"):
        if record["documents"] is None:
            continue
        documents = documents_of(record)
        reference = record["observation_prepend_think" if think_prefill else "observation"]
        want = with_quoted_titles(reference, documents)
        got, _ = render_observation(documents, think_prefill=think_prefill)
        if PASSED_THROUGH in record["quirks"]:
            assert len(got) == len(want), record["id"]
            assert {(old, new) for old, new in zip(want, got, strict=True) if old != new} <= REPLACED
            body = got[: got.rindex(INFORMATION_CLOSE)]
            assert len(ROLE_TAG.findall(body)) == 1  # the opening tag
        else:
            assert got == want, record["id"]
