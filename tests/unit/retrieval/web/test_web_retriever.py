"""Web search, against a local server that answers as each provider's public documentation describes."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calibadv.errors import ConfigError, RetrieverError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import NO_RETRY, Retry
from calibadv.retrieval.web import PROVIDERS, OnlineRetriever, Provider, WebSearchConfig, open_online, results_in

KEYS = {name: f"KEY-of-{name.lower()}" for provider in PROVIDERS.values() for name in provider.variables}
PARIS = {"title": "Paris - Wikipedia", "snippet": "Paris is the capital\n of France."}
EIFFEL = {"title": "Eiffel Tower", "snippet": "A tower in Paris."}

ANSWERS = {
    "serpapi": {
        "search_metadata": {"id": "64f", "status": "Success", "total_time_taken": 0.9},
        "search_parameters": {"engine": "google", "q": "paris"},
        "search_information": {"organic_results_state": "Results for exact spelling", "total_results": 2},
        "organic_results": [
            {"position": 1, "link": "https://a.example/paris", "displayed_link": "a.example > paris"} | PARIS,
            {"position": 2, "link": "https://b.example/eiffel", "displayed_link": "b.example"} | EIFFEL,
        ],
    },
    "serper": {
        "searchParameters": {"q": "paris", "type": "search", "engine": "google"},
        "knowledgeGraph": {"title": "Paris", "type": "Capital of France"},
        "organic": [
            {"link": "https://a.example/paris", "position": 1} | PARIS,
            {"link": "https://b.example/eiffel", "position": 2, "date": "3 Jan 2024"} | EIFFEL,
        ],
        "credits": 1,
    },
}
EMPTY = {
    "serpapi": {
        "search_metadata": {"status": "Success"},
        "search_information": {"organic_results_state": "Fully empty"},
        "error": "Google hasn't returned any results for this query.",
    },
    "serper": {"searchParameters": {"q": "x"}, "organic": [], "credits": 1},
}
WRONG_KEY = {
    "serpapi": (401, {"error": "Invalid API key."}),
    "serper": (403, {"message": "Unauthorized.", "statusCode": 403}),
}
USED_UP = {
    "serpapi": (429, {"error": "Your account has run out of searches."}),
    "serper": (400, {"message": "Not enough credits", "statusCode": 400}),
}

every_provider = pytest.mark.parametrize("name", list(PROVIDERS))


SHORT = Retry(retries=2, clock=FakeClock())


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def online(serve: Any, reply: Any) -> Iterator[Any]:
    """``online(name, answer)`` opens a provider whose address is a local server; ``.server`` is that server."""
    opened = []

    def make(name: Any, answer: Any = None, *, retry: Any = SHORT, **settings: Any) -> Any:
        server = serve(answer or (lambda request: reply(ANSWERS[name])))
        config = WebSearchConfig(**{"base_url": f"{server.url}/search", "per_second": 1000.0, **settings})
        retriever = open_online(name, config=config, retry=retry)
        retriever.server = server  # type: ignore[attr-defined]
        opened.append(retriever)
        return retriever

    yield make
    for retriever in opened:
        retriever.close()


@every_provider
def test_hits_have_the_address_as_id_the_title_and_the_snippet(online: Any, name: str) -> None:
    (hits,) = online(name).search(["paris"], 5)
    assert [hit.document.id for hit in hits] == ["https://a.example/paris", "https://b.example/eiffel"]
    assert hits[0].document.title == "Paris - Wikipedia"
    assert hits[0].document.text == "Paris is the capital of France."
    assert [hit.score for hit in hits] == [1.0, 0.5]


def test_the_requests_are_what_the_providers_expect(online: Any) -> None:
    sent = {}
    for name in PROVIDERS:
        retriever = online(name)
        retriever.search(["who was first?"], 3)
        (sent[name],) = retriever.server.requests
    assert sent["serpapi"].parameters == {
        "engine": "google", "q": "who was first?", "start": "0", "api_key": "KEY-of-serpapi_api_key",
    }  # fmt: skip
    assert sent["serper"].method == "POST"
    assert sent["serper"].json == {"q": "who was first?", "num": 10, "page": 1}
    assert sent["serper"].headers["x-api-key"] == "KEY-of-serper_api_key"


OWN = Provider(
    name="own",
    address="https://search.example/find",
    method="POST",
    fields=lambda query, page: {"query": query, "page": page},
    read=lambda answer: results_in(answer, of="results", mark="took"),
    names=("url", "title", "content"),
    header_keys={"Authorization": "OWN_KEY"},
)


def test_a_provider_of_ones_own_is_an_object_or_named_by_its_import_path(
    serve: Any, reply: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OWN_KEY", "s3cret")
    server = serve(
        lambda request: reply({"results": [{"url": "https://a", "title": "A", "content": "a b"}], "took": 1})
    )
    with OnlineRetriever(OWN, config=WebSearchConfig(base_url=server.url)) as retriever:
        ((hit,),) = retriever.search(["q"], 3)
    assert (hit.document.id, hit.document.title, hit.document.text) == ("https://a", "A", "a b")
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"
    assert server.requests[0].json == {"query": "q", "page": 0}
    (tmp_path / "my_search.py").write_text("from calibadv.retrieval.web import PROVIDERS\nOWN = PROVIDERS['serper']\n")
    monkeypatch.chdir(tmp_path)
    with open_online("my_search:OWN") as retriever:
        assert retriever.manifest()["provider"] == "serper"
    with pytest.raises(ConfigError, match=r"'my_search:PROVIDERS' is a dict, not a calibadv.retrieval.web.Provider"):
        open_online("my_search:PROVIDERS")


@every_provider
def test_an_empty_answer_is_no_hits_and_costs_one_request(online: Any, reply: Any, name: str) -> None:
    retriever = online(name, lambda request: reply(EMPTY[name]))
    assert retriever.search(["zebra"], PROVIDERS[name].max_results) == [[]]
    assert len(retriever.server.requests) == 1


@every_provider
def test_a_wrong_key_is_final_and_names_the_variable(online: Any, reply: Any, name: str) -> None:
    status, content = WRONG_KEY[name]
    retriever = online(name, lambda request: reply(content, status=status))
    with pytest.raises(RetrieverError, match=f"{name} answered {status}") as raised:
        retriever.search(["q"], 1)
    assert len(retriever.server.requests) == 1
    assert status == 422 or PROVIDERS[name].variables[0] in str(raised.value)


@every_provider
def test_a_used_up_plan_is_final(online: Any, reply: Any, name: str) -> None:
    status, content = USED_UP[name]
    retriever = online(name, lambda request: reply(content, status=status))
    with pytest.raises(RetrieverError, match=f"{name} answered {status}.*the plan behind it"):
        retriever.search(["q"], 1)
    assert len(retriever.server.requests) == 1


@every_provider
@pytest.mark.parametrize("status", [429, 500, 503])
def test_too_many_requests_and_server_errors_are_tried_again(online: Any, reply: Any, name: str, status: Any) -> None:
    early = [reply({"error": {"message": "Too many requests"}}, status=status), reply(drop=True)]
    retriever = online(name, lambda request: early.pop(0) if early else reply(ANSWERS[name]))
    (hits,) = retriever.search(["paris"], 1)
    assert len(hits) == 1
    assert len(retriever.server.requests) == 3


@every_provider
def test_a_search_that_finally_fails_raises(online: Any, reply: Any, name: str) -> None:
    retriever = online(name, lambda request: reply({"message": "busy"}, status=503))
    with pytest.raises(RetrieverError, match=r"no answer after 3 attempts"):
        retriever.search(["q"], 1)


def test_a_search_of_which_a_part_failed_pays_for_the_other_parts_once(online: Any, reply: Any) -> None:
    failing = ["b"]

    def answer(request: Any) -> Any:
        if request.json["q"] in failing:
            return reply({}, status=503, headers={"Retry-After": "3"})
        return reply(ANSWERS["serper"])

    retriever = online("serper", answer, retry=NO_RETRY, max_connections=1)
    with pytest.raises(RetrieverError) as raised:
        retriever.search(["a", "b"], 1)
    assert (raised.value.is_transient, raised.value.retry_after_s) == (True, 3.0)
    failing.clear()
    retriever.search(["a", "b"], 1)
    retriever.search(["a"], 1)
    assert [request.json["q"] for request in retriever.server.requests] == ["a", "b", "b", "a"]


@every_provider
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"x"', b"{}", b'{"items": 7, "kind": "x"}'])
def test_nonsense_is_an_error_and_never_an_empty_result(online: Any, reply: Any, name: str, body: Any) -> None:
    with pytest.raises(RetrieverError, match=name):
        online(name, lambda request: reply(body=body)).search(["q"], 1)


def test_serpapi_reports_failed_searches_with_status_200(online: Any, reply: Any) -> None:
    failed = {"search_metadata": {"status": "Error"}, "error": "Proxy timed out"}
    with pytest.raises(RetrieverError, match="Proxy timed out"):
        online("serpapi", lambda request: reply(failed)).search(["q"], 1)


@every_provider
def test_results_with_missing_fields_keep_what_they_have(online: Any, reply: Any, name: str) -> None:
    address, title, snippet = "link", "title", "snippet"
    items = [
        {title: "no address", snippet: "x"},
        {address: None, title: "no address"},
        {address: "https://only.address"},
        {address: "https://no.snippet", title: "T"},
        {address: "https://no.title", snippet: "S", title: None},
        {address: "https://odd", title: 7, snippet: "\ud800 half"},
        "nonsense",
    ]
    whole = ANSWERS[name]
    content = whole | {next(key for key, value in whole.items() if isinstance(value, list) and value): items}
    (hits,) = online(name, lambda request: reply(content)).search(["q"], 9)
    assert [(h.document.id, h.document.title, h.document.text) for h in hits] == [
        ("https://no.snippet", "T", ""),
        ("https://no.title", "", "S"),
        ("https://odd", "", "? half"),
    ]


def test_large_k_asks_for_further_pages_and_each_address_counts_once(online: Any, reply: Any) -> None:
    def answer(request: Any) -> Any:
        first = (request.json["page"] - 1) * 9  # the pages overlap
        return reply(
            {
                "searchParameters": {},
                "organic": [{"link": f"https://x/{i}", "title": f"T{i}"} for i in range(first, first + 10)],
            }
        )

    retriever = online("serper", answer)
    (hits,) = retriever.search(["q"], 25)
    assert [hit.document.id for hit in hits] == [f"https://x/{i}" for i in range(25)]
    assert [request.json["page"] for request in retriever.server.requests] == [1, 2, 3]


def test_k_beyond_what_a_provider_gives_is_an_error(online: Any) -> None:
    with pytest.raises(ConfigError, match="k must be <= 100 for serper, got 101"):
        online("serper").search(["q"], 101)
    with pytest.raises(ConfigError, match="k must be >= 1"):
        online("serper").search(["q"], 0)


def test_equal_queries_are_asked_once_and_blank_ones_never(online: Any) -> None:
    retriever = online("serper")
    found = retriever.search(["paris", " ", "paris", "rome"], 1)
    assert [len(hits) for hits in found] == [1, 0, 1, 1]
    assert sorted(request.json["q"] for request in retriever.server.requests) == ["paris", "rome"]


def test_requests_keep_the_pace(online: Any) -> None:
    retriever = online("serper", per_second=20.0)
    start = time.monotonic()
    retriever.search([f"q{i}" for i in range(6)], 1)
    assert time.monotonic() - start >= 0.25


def test_further_parameters_are_sent_and_reserved_ones_refused(online: Any) -> None:
    retriever = online("serper", parameters=("gl=us",))
    retriever.search(["q"], 1)
    assert retriever.server.requests[0].json["gl"] == "us"
    with pytest.raises(ConfigError, match="must not hold q"):
        online("serper", parameters=("q=x",))
    with pytest.raises(ConfigError, match="must not hold api_key"):
        online("serpapi", parameters=("api_key=x",))


def test_a_proxy_of_the_environment_is_used(online: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = online("serper").server
    monkeypatch.setenv("http_proxy", proxy.url)
    with open_online("serper", config=WebSearchConfig(base_url="http://search.invalid/search")) as retriever:
        assert len(retriever.search(["paris"], 2)[0]) == 2
    assert proxy.requests[0].headers["host"] == "search.invalid"


# The cache


def test_what_was_answered_once_is_not_asked_again(online: Any, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "web.sqlite"
    first = online("serper", cache=cache)
    found = first.search(["paris"], 3)
    first.search(["paris"], 2)
    assert len(first.server.requests) == 1
    second = online("serper", cache=cache)
    assert second.search(["paris"], 3) == found
    assert not second.server.requests


def test_providers_and_parameters_do_not_share_answers(online: Any, tmp_path: Path) -> None:
    cache = tmp_path / "web.sqlite"
    online("serper", cache=cache).search(["paris"], 1)
    for other in (online("serpapi", cache=cache), online("serper", cache=cache, parameters=("gl=fr",))):
        other.search(["paris"], 1)
        assert len(other.server.requests) == 1


def test_another_key_of_the_same_provider_uses_the_same_answers(
    online: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "web.sqlite"
    online("serper", cache=cache).search(["paris"], 1)
    monkeypatch.setenv("SERPER_API_KEY", "renewed")
    renewed = online("serper", cache=cache)
    renewed.search(["paris"], 1)
    assert not renewed.server.requests


def test_empty_answers_are_kept_and_failures_are_not(online: Any, reply: Any, tmp_path: Path) -> None:
    cache = tmp_path / "web.sqlite"
    replies = [reply({}, status=403), reply(EMPTY["serper"])]
    retriever = online("serper", lambda request: replies.pop(0), cache=cache)
    with pytest.raises(RetrieverError):
        retriever.search(["q"], 1)
    assert retriever.search(["q"], 1) == [[]]
    assert retriever.search(["q"], 1) == [[]]
    assert len(retriever.server.requests) == 2


def test_a_closed_retriever_says_so(online: Any) -> None:
    retriever = online("serper")
    retriever.close()
    with pytest.raises(RetrieverError, match="is closed"):
        retriever.search(["q"], 1)


# Keys


@every_provider
def test_keys_show_up_nowhere(
    online: Any, reply: Any, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "web.sqlite"
    echo = " and ".join(KEYS.values())  # the worst server: it sends every key back
    early = [reply({"message": echo}, status=503), reply({"message": echo}, status=404)]
    retriever = online(name, lambda request: early.pop(0) if early else reply(ANSWERS[name]), cache=cache)
    with caplog.at_level(logging.DEBUG), pytest.raises(RetrieverError) as raised:
        retriever.search(["paris"], 1)
    with caplog.at_level(logging.DEBUG):
        retriever.search(["paris"], 1)
    assert "HTTP Request" in caplog.text
    retriever.close()
    shown = caplog.text + str(raised.value) + str(vars(retriever)) + str(retriever.manifest()) + retriever.version
    shown += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    for variable in PROVIDERS[name].variables:
        assert KEYS[variable] not in shown


@every_provider
def test_a_missing_key_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROVIDERS[name].variables:
        monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match=f"needs {' and '.join(PROVIDERS[name].variables)} in the environment"):
        open_online(name)


def test_an_unknown_provider_and_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"retrieval.online must be one of serper, serpapi, .*, got 'bing'"):
        open_online("bing")
    for name in ("cache_days", "per_second", "timeout_s", "max_connections"):
        with pytest.raises(ConfigError, match=name):
            WebSearchConfig(**{name: -1})  # type: ignore[arg-type]
    monkeypatch.setenv("SERPER_API_KEY", "two words")
    with pytest.raises(ConfigError, match="SERPER_API_KEY must be printable") as raised:
        open_online("serper")
    assert "two words" not in str(raised.value)


def test_what_is_searched_is_on_record(online: Any) -> None:
    retriever = online("serper", parameters=("gl=us",))
    manifest = retriever.manifest()
    assert manifest["provider"] == "serper"
    assert manifest["parameters"] == {"gl": "us"}
    assert manifest["version"] == retriever.version != online("serper").version


def test_pages_of_the_real_addresses_use_encryption() -> None:
    assert all(provider.address.startswith("https://") for provider in PROVIDERS.values())
