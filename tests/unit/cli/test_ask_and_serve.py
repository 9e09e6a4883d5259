"""`calibadv ask` and `calibadv serve` on the lab's packaged model, as a new user would type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from calibadv.cli.main import main
from calibadv.runs.agent import lab_questions, name_of

QUESTION = lab_questions(3)[-1]


def test_ask_without_a_question_offers_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("calibadv ask ") == 3
    assert QUESTION in printed


def test_ask_prints_events_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", QUESTION, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["type"] for event in events} == {"turn", "documents", "finished"}
    assert events[-1]["type"] == "finished"
    assert events[-1]["answer"]


def test_ask_shows_the_turns_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", QUESTION]) == 0
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[2:3].isalpha()]
    assert labels[0] == "think"
    assert {"search", "found", "answer"} <= set(labels)


def test_ask_leaves_with_1_when_there_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", QUESTION, "--set", "rollout.max_turn_tokens=2"]) == 1
    printed = capsys.readouterr().out
    assert "wrote     let me" in printed
    assert "no answer" in printed
    assert "rollout.max_turn_tokens" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", " "], "QUESTION is empty"),
        (["ask", "--model", "nowhere/at-all"], "QUESTION is missing"),
        (["ask", "who?", "--model", "Some/model"], "needs --retriever"),
        (["ask", "who?", "--retriever", "nowhere"], "--retriever nowhere: no such file or folder"),
        (["ask", "who?", "--temperature", "-1"], "rollout.temperature"),
        (["ask", "who?", "--set", "rollout.colour=1"], "colour"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_served_model_is_called_after_its_folder(tmp_path: Path) -> None:
    assert name_of(None) == "calibadv-lab"
    assert name_of("org/model") == "org/model"
    (tmp_path / "my-run").mkdir()
    assert name_of(str(tmp_path / "my-run")) == "my-run"


def test_a_folder_is_called_by_its_own_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab-0.5").mkdir()
    monkeypatch.chdir(tmp_path / "lab-0.5")
    assert name_of(".") == "lab-0.5"


def test_ask_says_soon_that_a_retriever_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    soon = ["--set", "retrieval.remote.wait_s=0.2"]
    assert main(["ask", QUESTION, "--retriever", "http://127.0.0.1:9", *soon]) == 3
    assert "was not ready after 0.2 s" in capsys.readouterr().err


def test_the_lab_s_model_is_meant_also_inside_of_a_run_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["ask", QUESTION, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answer"]


def test_a_question_that_is_no_text_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "caf\udce9?"]) == 2
    assert "half of a surrogate pair" in capsys.readouterr().err


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "calibadv", "serve", "--port", "0"]
    environment = {**os.environ, "CALIBADV_AGENT_TOKEN": "secret"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    lines = iter(process.stdout)
    assert "Loading" in next(lines)
    yield process, next(lines).split()[-1]
    process.kill()
    process.wait()
    process.stdout.close()


def test_serve_answers_the_official_client_and_ends_on_sigterm(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    with openai.OpenAI(base_url=f"{url}/v1", api_key="secret") as client:
        model = client.models.list().data[0].id
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}])
    assert model == "calibadv-lab"
    assert reply.choices[0].message.content
    assert QUESTION in httpx2.get(url).text
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
