"""Web search engines, against a local server that answers as each engine's public documentation describes."""

import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from calibadv.errors import ConfigError, DataError, RetrieverError
from calibadv.io.clock import FakeClock
from calibadv.io.retry import NO_RETRY, Retry
from calibadv.retrieval.web import ENGINES, OnlineConfig, PageCache, open_online
from calibadv.retrieval.web.providers import Found

KEYS = {name: f"KEY-of-{name.lower()}" for engine in ENGINES.values() for name in engine.variables}
PARIS = {"title": "Paris - Wikipedia", "snippet": "Paris is the capital\n of France."}
EIFFEL = {"title": "Eiffel Tower", "snippet": "A tower in Paris."}

ANSWERS = {
    "google": {
        "kind": "customsearch#search",
        "queries": {"request": [{"totalResults": "2", "searchTerms": "paris", "count": 2, "startIndex": 1}]},
        "searchInformation": {"searchTime": 0.2, "totalResults": "2"},
        "items": [
            {"kind": "customsearch#result", "link": "https://a.example/paris", "displayLink": "a.example"} | PARIS,
            {"kind": "customsearch#result", "link": "https://b.example/eiffel", "displayLink": "b.example"} | EIFFEL,
        ],
    },
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
    "brave": {
        "type": "search",
        "query": {"original": "paris", "more_results_available": False},
        "web": {
            "type": "search",
            "results": [
                {
                    "type": "search_result",
                    "title": "Paris - Wikipedia",
                    "url": "https://a.example/paris",
                    "description": "<strong>Paris</strong> is the capital\n of&nbsp;France.",
                },
                {"title": "Eiffel Tower", "url": "https://b.example/eiffel", "description": "A tower in Paris."},
            ],
        },
    },
    "tavily": {
        "query": "paris",
        "answer": None,
        "images": [],
        "results": [
            {"url": "https://a.example/paris", "title": PARIS["title"], "content": PARIS["snippet"], "score": 0.9},
            {"url": "https://b.example/eiffel", "title": EIFFEL["title"], "content": EIFFEL["snippet"], "score": 0.8},
        ],
        "response_time": 0.6,
        "request_id": "1-2-3",
    },
}
EMPTY = {
    "google": {"kind": "customsearch#search", "searchInformation": {"totalResults": "0"}},
    "serpapi": {
        "search_metadata": {"status": "Success"},
        "search_information": {"organic_results_state": "Fully empty"},
        "error": "Google hasn't returned any results for this query.",
    },
    "serper": {"searchParameters": {"q": "x"}, "organic": [], "credits": 1},
    "brave": {"type": "search", "query": {"original": "x"}},
    "tavily": {"query": "x", "results": [], "response_time": 0.1},
}
WRONG_KEY = {
    "google": (400, {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}),
    "serpapi": (401, {"error": "Invalid API key."}),
    "serper": (403, {"message": "Unauthorized.", "statusCode": 403}),
    "brave": (422, {"type": "ErrorResponse", "error": {"code": "SUBSCRIPTION_TOKEN_INVALID", "detail": "Wrong token"}}),
    "tavily": (401, {"detail": {"error": "Unauthorized: missing or invalid API key."}}),
}
USED_UP = {
    "google": (
        429,
        {"error": {"code": 429, "message": "Quota exceeded for quota metric 'Queries' and limit 'Queries per day'"}},
    ),
    "serpapi": (429, {"error": "Your account has run out of searches."}),
    "serper": (400, {"message": "Not enough credits", "statusCode": 400}),
    "brave": (402, {"error": {"code": "QUOTA", "detail": "Plan limit reached"}}),
    "tavily": (432, {"detail": {"error": "This request exceeds your plan's set usage limit."}}),
}

every_engine = pytest.mark.parametrize("name", list(ENGINES))


SHORT = Retry(retries=2, clock=FakeClock())


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def online(serve, reply):
    """``online(name, answer)`` opens an engine whose address is a local server; ``.server`` is that server."""
    opened = []

    def make(name, answer=None, *, retry=SHORT, **settings):
        server = serve(answer or (lambda request: reply(ANSWERS[name])))
        config = OnlineConfig(**{"base_url": f"{server.url}/search", "per_second": 1000.0, **settings})
        retriever = open_online(name, config=config, retry=retry)
        retriever.server = server
        opened.append(retriever)
        return retriever

    yield make
    for retriever in opened:
        retriever.close()


@every_engine
def test_hits_have_the_address_as_id_the_title_and_the_snippet(online, name):
    (hits,) = online(name).search(["paris"], 5)
    assert [hit.document.id for hit in hits] == ["https://a.example/paris", "https://b.example/eiffel"]
    assert hits[0].document.title == "Paris - Wikipedia"
    assert hits[0].document.text == "Paris is the capital of France."
    assert [hit.score for hit in hits] == [1.0, 0.5]


def test_the_requests_are_what_the_engines_expect(online):
    sent = {}
    for name in ENGINES:
        retriever = online(name)
        retriever.search(["who was first?"], 3)
        (sent[name],) = retriever.server.requests
    assert sent["google"].parameters == {
        "q": "who was first?", "num": "10", "start": "1", "key": "KEY-of-google_api_key", "cx": "KEY-of-google_cse_id",
    }  # fmt: skip
    assert sent["serpapi"].parameters == {
        "engine": "google", "q": "who was first?", "start": "0", "api_key": "KEY-of-serpapi_api_key",
    }  # fmt: skip
    assert sent["serper"].method == "POST"
    assert sent["serper"].json == {"q": "who was first?", "num": 10, "page": 1}
    assert sent["serper"].headers["x-api-key"] == "KEY-of-serper_api_key"
    assert sent["brave"].parameters == {
        "q": "who was first?", "count": "20", "offset": "0", "text_decorations": "false",
    }  # fmt: skip
    assert sent["brave"].headers["x-subscription-token"] == "KEY-of-brave_api_key"
    assert sent["tavily"].json == {"query": "who was first?", "max_results": 20, "search_depth": "basic"}
    assert sent["tavily"].headers["authorization"] == "Bearer KEY-of-tavily_api_key"


@every_engine
def test_an_empty_answer_is_no_hits_and_costs_one_request(online, reply, name):
    retriever = online(name, lambda request: reply(EMPTY[name]))
    assert retriever.search(["zebra"], ENGINES[name].max_results) == [[]]
    assert len(retriever.server.requests) == 1


@every_engine
def test_a_wrong_key_is_final_and_names_the_variable(online, reply, name):
    status, content = WRONG_KEY[name]
    retriever = online(name, lambda request: reply(content, status=status))
    with pytest.raises(RetrieverError, match=f"{name} answered {status}") as raised:
        retriever.search(["q"], 1)
    assert len(retriever.server.requests) == 1
    assert status == 422 or ENGINES[name].variables[0] in str(raised.value)


@every_engine
def test_a_used_up_plan_is_final(online, reply, name):
    status, content = USED_UP[name]
    retriever = online(name, lambda request: reply(content, status=status))
    with pytest.raises(RetrieverError, match=f"{name} answered {status}.*the plan behind it"):
        retriever.search(["q"], 1)
    assert len(retriever.server.requests) == 1


@every_engine
@pytest.mark.parametrize("status", [429, 500, 503])
def test_too_many_requests_and_server_errors_are_tried_again(online, reply, name, status):
    early = [reply({"error": {"message": "Too many requests"}}, status=status), reply(drop=True)]
    retriever = online(name, lambda request: early.pop(0) if early else reply(ANSWERS[name]))
    (hits,) = retriever.search(["paris"], 1)
    assert len(hits) == 1
    assert len(retriever.server.requests) == 3


def test_google_says_403_when_requests_come_too_fast(online, reply):
    slow_down = {"error": {"code": 403, "message": "Rate", "errors": [{"reason": "userRateLimitExceeded"}]}}
    early = [reply(slow_down, status=403)]
    retriever = online("google", lambda request: early.pop(0) if early else reply(ANSWERS["google"]))
    assert len(retriever.search(["paris"], 2)[0]) == 2


@every_engine
def test_a_search_that_finally_fails_raises(online, reply, name):
    retriever = online(name, lambda request: reply({"message": "busy"}, status=503))
    with pytest.raises(RetrieverError, match=r"no answer after 3 attempts"):
        retriever.search(["q"], 1)


def test_a_search_of_which_a_part_failed_pays_for_the_other_parts_once(online, reply):
    failing = ["b"]

    def answer(request):
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


@every_engine
@pytest.mark.parametrize("body", [b"<html>", b"[]", b'"x"', b"{}", b'{"items": 7, "kind": "x"}'])
def test_nonsense_is_an_error_and_never_an_empty_result(online, reply, name, body):
    with pytest.raises(RetrieverError, match=name):
        online(name, lambda request: reply(body=body)).search(["q"], 1)


def test_serpapi_reports_failed_searches_with_status_200(online, reply):
    failed = {"search_metadata": {"status": "Error"}, "error": "Proxy timed out"}
    with pytest.raises(RetrieverError, match="Proxy timed out"):
        online("serpapi", lambda request: reply(failed)).search(["q"], 1)


@every_engine
def test_results_with_missing_fields_keep_what_they_have(online, reply, name):
    address, title, snippet = ENGINES[name].names
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
    content = whole | {"web": {"type": "search", "results": items}} if name == "brave" else whole | {
        next(key for key, value in whole.items() if isinstance(value, list) and value): items
    }  # fmt: skip
    (hits,) = online(name, lambda request: reply(content)).search(["q"], 9)
    assert [(h.document.id, h.document.title, h.document.text) for h in hits] == [
        ("https://no.snippet", "T", ""),
        ("https://no.title", "", "S"),
        ("https://odd", "", "? half"),
    ]


def test_large_k_asks_for_further_pages_and_each_address_counts_once(online, reply):
    def answer(request):
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


def test_k_beyond_what_an_engine_gives_is_an_error(online):
    with pytest.raises(ConfigError, match="k must be <= 20 for tavily, got 21"):
        online("tavily").search(["q"], 21)
    with pytest.raises(ConfigError, match="k must be >= 1"):
        online("serper").search(["q"], 0)


def test_equal_queries_are_asked_once_and_blank_ones_never(online):
    retriever = online("serper")
    found = retriever.search(["paris", " ", "paris", "rome"], 1)
    assert [len(hits) for hits in found] == [1, 0, 1, 1]
    assert sorted(request.json["q"] for request in retriever.server.requests) == ["paris", "rome"]


def test_requests_keep_the_pace(online):
    retriever = online("serper", per_second=20.0)
    start = time.monotonic()
    retriever.search([f"q{i}" for i in range(6)], 1)
    assert time.monotonic() - start >= 0.25


def test_further_parameters_are_sent_and_reserved_ones_refused(online):
    retriever = online("serper", parameters={"gl": "us"})
    retriever.search(["q"], 1)
    assert retriever.server.requests[0].json["gl"] == "us"
    with pytest.raises(ConfigError, match="must not hold q"):
        online("serper", parameters={"q": "x"})
    with pytest.raises(ConfigError, match="must not hold api_key"):
        online("serpapi", parameters={"api_key": "x"})


def test_a_proxy_of_the_environment_is_used(online, monkeypatch):
    proxy = online("serper").server
    monkeypatch.setenv("http_proxy", proxy.url)
    with open_online("serper", config=OnlineConfig(base_url="http://search.invalid/search")) as retriever:
        assert len(retriever.search(["paris"], 2)[0]) == 2
    assert proxy.requests[0].headers["host"] == "search.invalid"


# The cache


def test_what_was_answered_once_is_not_asked_again(online, tmp_path):
    cache = tmp_path / "deep" / "web.sqlite"
    first = online("serper", cache=cache)
    found = first.search(["paris"], 3)
    first.search(["paris"], 2)
    assert len(first.server.requests) == 1
    second = online("serper", cache=cache)
    assert second.search(["paris"], 3) == found
    assert not second.server.requests


def test_engines_parameters_and_engine_ids_do_not_share_answers(online, tmp_path, monkeypatch):
    cache = tmp_path / "web.sqlite"
    online("google", cache=cache).search(["paris"], 1)
    others = [online("serpapi", cache=cache), online("google", cache=cache, parameters={"gl": "fr"})]
    monkeypatch.setenv("GOOGLE_CSE_ID", "another")
    others.append(online("google", cache=cache))
    for other in others:
        other.search(["paris"], 1)
        assert len(other.server.requests) == 1


def test_another_key_of_the_same_engine_uses_the_same_answers(online, tmp_path, monkeypatch):
    cache = tmp_path / "web.sqlite"
    online("serper", cache=cache).search(["paris"], 1)
    monkeypatch.setenv("SERPER_API_KEY", "renewed")
    renewed = online("serper", cache=cache)
    renewed.search(["paris"], 1)
    assert not renewed.server.requests


def test_empty_answers_are_kept_and_failures_are_not(online, reply, tmp_path):
    cache = tmp_path / "web.sqlite"
    replies = [reply({}, status=403), reply(EMPTY["serper"])]
    retriever = online("serper", lambda request: replies.pop(0), cache=cache)
    with pytest.raises(RetrieverError):
        retriever.search(["q"], 1)
    assert retriever.search(["q"], 1) == [[]]
    assert retriever.search(["q"], 1) == [[]]
    assert len(retriever.server.requests) == 2


def test_old_answers_are_asked_for_again(tmp_path, monkeypatch):
    cache = PageCache(tmp_path / "web.sqlite", max_age_days=2)
    cache.put("digest", [Found("https://x", "T", "S")])
    assert cache.get("digest") == [Found("https://x", "T", "S")]
    now = time.time()
    monkeypatch.setattr("calibadv.retrieval.web.cache.time.time", lambda: now + 3 * 86_400)
    assert cache.get("digest") is None
    cache.close()


def test_another_file_is_not_taken_for_a_cache(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, keep them " * 10)
    with pytest.raises(DataError, match="not a cache of search results"):
        PageCache(text)
    assert text.read_text().startswith("these are my notes")
    other = tmp_path / "other.sqlite"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(DataError, match="something else"):
        PageCache(other)


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "web.sqlite"):
        with pytest.raises(DataError, match="cannot be opened as a cache"):
            PageCache(path)


@pytest.mark.parametrize("content", ["[[1", "[[1]]", "7", '[["u", "t"]]', '["utt"]'])
def test_a_damaged_page_is_an_error_and_no_result(tmp_path, content):
    cache = PageCache(tmp_path / "web.sqlite")
    cache.put("digest", [])
    database = sqlite3.connect(tmp_path / "web.sqlite")
    database.execute("UPDATE pages SET found = ?", (content,))
    database.commit()
    database.close()
    with pytest.raises(DataError, match="the cache is damaged"):
        cache.get("digest")
    cache.close()


def test_a_cache_may_be_made_by_two_at_once(tmp_path):
    def use(number):
        cache = PageCache(tmp_path / "web.sqlite")
        cache.put(str(number), [])
        cache.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(32)))
    cache = PageCache(tmp_path / "web.sqlite")
    assert [cache.get(str(number)) for number in range(32)] == [[]] * 32
    cache.close()


def test_a_closed_engine_says_so(online):
    retriever = online("serper")
    retriever.close()
    with pytest.raises(RetrieverError, match="is closed"):
        retriever.search(["q"], 1)


# Keys


@every_engine
def test_keys_show_up_nowhere(online, reply, name, tmp_path, caplog):
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
    for variable in ENGINES[name].variables:
        assert KEYS[variable] not in shown


@every_engine
def test_a_missing_key_is_named(name, monkeypatch):
    for variable in ENGINES[name].variables:
        monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match=f"needs {' and '.join(ENGINES[name].variables)} in the environment"):
        open_online(name)


def test_an_unknown_engine_and_wrong_settings_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="one of google, serpapi, serper, brave, tavily, got 'bing'"):
        open_online("bing")
    for name in ("cache_days", "per_second", "timeout_s", "max_connections"):
        with pytest.raises(ConfigError, match=name):
            OnlineConfig(**{name: -1})
    monkeypatch.setenv("SERPER_API_KEY", "two words")
    with pytest.raises(ConfigError, match="SERPER_API_KEY must be printable") as raised:
        open_online("serper")
    assert "two words" not in str(raised.value)


def test_what_is_searched_is_on_record(online):
    retriever = online("brave", parameters={"country": "us"})
    manifest = retriever.manifest()
    assert manifest["engine"] == "brave"
    assert manifest["parameters"] == {"country": "us"}
    assert manifest["version"] == retriever.version != online("brave").version


def test_pages_of_the_real_addresses_use_encryption():
    assert all(engine.address.startswith("https://") for engine in ENGINES.values())
