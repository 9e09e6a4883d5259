"""Random requests made from the OpenAPI description: no 5xx, and every answer as described."""

import collections
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402


def attack(running: Any, *, examples: Any) -> Any:
    """What was answered to requests that the description allows and to broken ones; every check must pass."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    answered: collections.Counter[Any] = collections.Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            if mode == schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing in those requests can be wrong

            @given(case=operation.as_strategy(mode))
            @settings(
                max_examples=examples,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def ask(case: Any) -> None:
                # That there must be as many lists of documents as queries is beyond JSON schema.
                excluded = [positive_data_acceptance] if case.operation.path == "/rerank" else []
                response = case.call_and_validate(excluded_checks=excluded)
                answered[case.operation.path, response.status_code] += 1

            ask()
    return answered


@pytest.mark.parametrize("examples", [15, pytest.param(120, marks=pytest.mark.slow)])
def test_no_request_that_can_be_described_breaks_the_server(plain: Any, reranking: Any, examples: Any) -> None:
    for running in (plain, reranking):
        answered = attack(running, examples=examples)
        assert {path for path, _ in answered} >= {"/retrieve", "/rerank", "/health", "/documents/{document_id}"}
        assert all(status < 500 for _, status in answered)
        assert answered["/retrieve", 200] >= examples // 2
        assert answered["/retrieve", 422] + answered["/retrieve", 400] >= examples // 2
        assert running.retrieve(queries=["q"], topk=1)
