"""From the first connection to the last: loading, health, token, metrics, and an end that keeps its promises."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from calibadv.cli.main import main
from calibadv.errors import ConfigError, DataError
from calibadv.retrieval import ListRetriever
from calibadv.retrieval.server import Backend, ServerConfig, serve
from calibadv.trajectory import Document

DOCUMENTS = [Document(id=str(i), title="", text=f"text {i}") for i in range(5)]


def test_health_answers_while_the_index_is_loaded_and_searches_are_told_to_wait(serving: Any, until: Any) -> None:
    go = threading.Event()

    def load(report: Any) -> Any:
        report("opening the index")
        assert go.wait(20)
        return Backend(ListRetriever(DOCUMENTS))

    with serving(load, wait=False) as running:
        until(lambda: running.client.get("/health").json().get("stage") == "opening the index")
        loading = running.client.get("/health")
        assert loading.status_code == 503
        assert loading.headers["retry-after"] == "1"
        assert loading.json()["status"] == "loading"
        assert loading.json()["seconds"] >= 0
        assert running.metric("ready") == 0
        for response in (running.post("/retrieve", queries=["q"]), running.client.get("/documents/1")):
            assert response.status_code == 503
            assert response.json()["detail"] == "the server is loading (opening the index); try again later"
        go.set()
        until(lambda: running.client.get("/health").status_code == 200)
        assert running.retrieve(queries=["q"])
        assert running.metric("ready") == 1


def test_health_names_the_index_its_size_and_the_limits(serving: Any, make_backend: Any) -> None:
    with serving(make_backend(rerank=True)) as running:
        health = running.client.get("/health").json()
    assert health["status"] == "ready"
    assert health["num_documents"] == 3
    assert health["index"] == {"method": "ListRetriever"}
    assert health["reranker"] == {"model": "words"}
    assert health["defaults"] == {"top_k": 20, "rerank_top_k": 3}
    assert health["limits"]["max_queries"] == 4096
    assert len(health["version"]) == 64


def test_the_token_is_asked_for_everywhere_but_in_health_which_then_says_little(
    serving: Any, make_backend: Any
) -> None:
    with serving(make_backend(), config=ServerConfig(token="hush")) as running:
        right = {"Authorization": "Bearer hush"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "hush"}, {"Authorization": "Bearer"}):
            for path in ("/metrics", "/documents/ada"):
                assert running.client.get(path, headers=headers).status_code == 401
            refused = running.client.post("/retrieve", json={"queries": ["q"]}, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer" in refused.json()["detail"]
            assert running.client.get("/health", headers=headers).json() == {"status": "ready"}
        assert running.client.post("/retrieve", json={"queries": ["q"]}, headers=right).status_code == 200
        assert running.client.get("/metrics", headers=right).status_code == 200
        assert running.client.get("/documents/ada", headers=right).status_code == 200
        assert running.client.get("/health", headers=right).json()["num_documents"] == 3


def test_metrics_are_in_the_prometheus_format_and_count(serving: Any, make_backend: Any) -> None:
    with serving(make_backend()) as running:
        running.retrieve(queries=["a", "b"], topk=1)
        running.post("/retrieve", queries="wrong")
        response = running.client.get("/metrics")
        names = {family.name for family in text_string_to_metric_families(response.text)}
        for name in (
            "requests", "queries", "request_seconds", "batch_queries", "batch_seconds", "cache_hits", "cache_misses",
            "joined_queries", "dropped_queries", "queue_depth", "unfinished_queries", "cache_bytes", "ready",
        ):  # fmt: skip
            assert f"calibadv_retriever_{name}" in names
        assert response.headers["content-type"].startswith("text/plain")
        assert running.metric("queries_total") == 2
        assert running.metric("requests_total", endpoint="retrieve", status="200") == 1
        assert running.metric("requests_total", endpoint="retrieve", status="422") == 1
        assert running.metric("request_seconds_count", endpoint="retrieve") == 2


def test_two_servers_in_one_process_have_figures_of_their_own(serving: Any, make_backend: Any) -> None:
    with serving(make_backend()) as one, serving(make_backend()) as two:
        one.retrieve(queries=["a"])
        assert (one.metric("queries_total"), two.metric("queries_total")) == (1, 0)


def test_an_index_that_cannot_be_loaded_ends_the_server_with_its_error() -> None:
    def load(report: Any) -> None:
        raise DataError("wiki/bm25: no manifest.json, so this is not an index")

    with pytest.raises(DataError, match="no manifest"):
        serve(load, config=ServerConfig(port=0))  # type: ignore[arg-type]


def test_an_index_that_fails_at_the_first_search_ends_the_server() -> None:
    with pytest.raises(RuntimeError, match="told to fail"):
        serve(lambda report: Backend(ListRetriever(DOCUMENTS, fail_first=1)), config=ServerConfig(port=0))


def test_a_port_in_use_is_an_error_that_names_it(serving: Any, make_backend: Any) -> None:
    with serving(make_backend()) as running:
        port = int(running.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1, port {port}: .*in use"):
            serve(lambda report: make_backend(), config=ServerConfig(port=port))


def test_listening_beyond_this_machine_without_a_token_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def load(report: Any) -> None:
        raise DataError("enough")

    for config, warned in ((ServerConfig(port=0, host="0.0.0.0"), True), (ServerConfig(port=0), False)):
        caplog.clear()
        with pytest.raises(DataError):
            serve(load, config=config)  # type: ignore[arg-type]
        assert ("without a token" in caplog.text) is warned


SERVER = """
import sys, threading, time
from calibadv.retrieval import ListRetriever
from calibadv.retrieval.server import Backend, ServerConfig, serve
from calibadv.trajectory import Document

class Slow(ListRetriever):
    def search(self, queries, k):
        if list(queries) != ["warm-up"]:
            print("searching", flush=True)
            time.sleep(1.0)
        return super().search(queries, k)

backend = Backend(Slow([Document(id="1", title="", text="text")]))
serve(lambda report: backend, config=ServerConfig(port=0), on_listening=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


def test_sigterm_lets_accepted_requests_finish_and_refuses_new_ones(until: Any) -> None:
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        until(lambda: client.get("/health").status_code == 200)
        got = []
        asking = [
            threading.Thread(
                target=lambda q: got.append(httpx2.post(f"{url}/retrieve", json={"queries": [q]}, trust_env=False)),
                args=(query,),
            )
            for query in ("one", "two")  # the second waits while the first is being searched
        ]
        asking[0].start()
        assert process.stdout.readline() == "searching\n"
        asking[1].start()
        until(lambda: "queue_depth 1.0" in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{url}/health", trust_env=False)
        for thread in asking:
            thread.join(20)
    assert [response.status_code for response in got] == [200, 200]
    rest, _ = process.communicate(timeout=20)
    assert rest.splitlines() == ["searching", "stopped"]
    assert process.returncode == 0


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "CALIBADV_RETRIEVER_TOKEN": ""}
    command = [sys.executable, "-m", "calibadv", "retriever", "serve", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ConfigError: CALIBADV_RETRIEVER_TOKEN must be printable ASCII")
    environment.pop("CALIBADV_RETRIEVER_TOKEN")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 2
    assert "no manifest.json, so this is not an index" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_of_less_than_nothing_is_refused_by_the_name_of_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retriever", "serve", "index", "--cache-mb", "-1"]) == 2
    assert "cache" in capsys.readouterr().err


def test_an_index_that_is_not_there_is_refused_before_the_server_says_it_listens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["retriever", "serve", "nowhere", "--port", "0"]) == 2
    said = capsys.readouterr()
    assert "nowhere: no such folder; make an index" in said.err
    assert "Listening" not in said.out


def test_the_description_has_every_endpoint_with_examples(plain: Any) -> None:
    described = plain.client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/retrieve", "/rerank", "/health", "/metrics", "/documents/{document_id}"}
    for path in ("/retrieve", "/rerank"):
        content = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            assert plain.post(path, **example["value"]).status_code in (200, 404)
    assert plain.client.get("/docs").status_code == 200
    assert json.dumps(described).count("CalibAdv") > 3


LOADING = """
import time
from calibadv.retrieval.server import ServerConfig, serve

serve(lambda report: time.sleep(60), config=ServerConfig(port=0), on_listening=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


def test_sigterm_ends_a_server_that_is_still_loading(until: Any) -> None:
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", LOADING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    until(lambda: is_up(url))
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=20)
    assert rest == "stopped\n"
    assert process.returncode == 0


def is_up(url: Any) -> Any:
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == 503
    except httpx2.TransportError:
        return False
