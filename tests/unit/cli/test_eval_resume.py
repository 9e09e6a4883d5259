"""An evaluation that stops early keeps what was finished, and goes on from there:

1. a retriever that goes away (exit 3), a kill, a full disk, Ctrl-C: finished rollouts are on disk;
2. the same command continues and plays only what is missing; the result is that of an undisturbed evaluation;
3. with other settings it refuses and names the difference; a complete evaluation is not played again.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from calibadv.cli.main import main
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import RetrieverError
from calibadv.models.config import ModelConfig
from calibadv.retrieval import BM25Retriever, Hit
from calibadv.retrieval.corpus.read import read_corpus

Watch = Callable[[Sequence[str]], None]
TURNS = ("hm</think><search>capital of {episode:03}</search>", "ok</think><answer>Paris</answer>")


def play(episode: int, turn: int) -> str:
    return TURNS[turn].format(episode=episode)


def results(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What must not depend on interruptions: everything but times (and queries, which the script numbers)."""
    found = json.loads((folder / "results.json").read_text())
    for summary in found.values():
        del summary["seconds"], summary["metrics"]["latency_s"]
    lines = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    return found, [{k: v for k, v in line.items() if k not in ("latency_s", "queries")} for line in lines]


def block_results(folder: Path, script: Callable[..., list[ModelConfig]]) -> Path:
    """Something is where the results of the evaluation shall be written, from its first turn on."""
    obstacle = folder / "results.json" / "in the way"

    def play_and_block(episode: int, turn: int) -> str:
        obstacle.parent.mkdir(exist_ok=True)
        obstacle.touch()
        return play(episode, turn)

    script(play_and_block)
    return obstacle


@pytest.fixture
def many(config_file: Path, script: Callable[..., list[ModelConfig]]) -> Path:
    """A config with two data sets of 40 questions, searched one batch at a time."""
    rows = [{"id": str(i), "question": f"Capital number {i}?", "golden_answers": ["Paris"]} for i in range(40)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("geo.test.jsonl", "more.test.jsonl"):
        (config_file.parent / name).write_text(text)
    with config_file.open("a") as file:
        file.write("[evaluation]\nsamples = 1\n")
    text = config_file.read_text().replace('["geo.test.jsonl"]', '["geo.test.jsonl", "more.test.jsonl"]')
    config_file.write_text(text.replace("[rollout]", "[rollout]\nconcurrency = 4"))
    return config_file


@pytest.fixture
def watched(
    script: Callable[..., list[ModelConfig]], config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Watch], None]:
    """``watched(look)``: the config's retriever shows its queries to ``look``, which may raise, before it searches."""
    looks: list[Watch] = [lambda queries: None]

    class Watched:
        def __init__(self) -> None:
            self.inner = BM25Retriever.from_documents(read_corpus("corpus.jsonl"))
            self.version = self.inner.version

        def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
            looks[-1](queries)
            return self.inner.search(queries, k)

        def manifest(self) -> dict[str, Any]:
            return self.inner.manifest()

    monkeypatch.setattr("scripted.retriever", Watched, raising=False)
    text = config_file.read_text("utf-8")
    config_file.write_text(text.replace('corpus = "corpus.jsonl"', 'retriever = "scripted:retriever"'), "utf-8")
    return looks.append


@pytest.fixture
def dying(watched: Callable[[Watch], None]) -> Callable[[int], list[str]]:
    """``dying(n)``: the retriever answers n queries and is then gone."""

    def install(number: int) -> list[str]:
        answered: list[str] = []

        def die_later(queries: Sequence[str]) -> None:
            if len(answered) >= number:
                raise RetrieverError("connection refused")
            answered.extend(queries)

        watched(die_later)
        return answered

    return install


@pytest.fixture
def begun(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    dying: Callable[[int], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """An evaluation in the folder "out" that its retriever left early; the retriever is back."""
    script(play)
    dying(20)
    assert main(["eval", str(many), "--out", "out"]) == 3
    dying(10**6)
    capsys.readouterr()
    return many


def test_a_retriever_that_dies_keeps_what_was_finished_and_is_continued(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    dying: Callable[[int], list[str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    script(play)
    root = many.parent
    assert main(["eval", str(many), "--out", "whole"]) == 0
    dying(60)
    assert main(["eval", str(many), "--out", "out"]) == 3
    kept = list(read_trajectories(root / "out" / "finished.jsonl"))
    assert 52 <= len(kept) <= 60
    assert f"{len(kept)} finished rollouts are kept in out/finished.jsonl" in capsys.readouterr().err
    answered = dying(10**6)
    assert main(["eval", str(many), "--out", "out"]) == 0
    assert f"{len(kept)} rollouts were finished before" in caplog.text
    assert len(answered) == 80 - len(kept), "only what was missing is searched"
    assert results(root / "out") == results(root / "whole")
    assert not (root / "out" / "finished.jsonl").exists()


def test_other_settings_are_refused_by_name(
    begun: Path, write_model: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (write_model(begun.parent / "other") / "config.json").write_text("{ }")
    for arguments, message in (
        (["--temperature", "0.5"], "rollout.temperature was 1.0, is 0.5"),
        (["--set", "rollout.top_k=1"], "rollout.top_k was 2, is 1"),
        (["--samples", "2"], "sampling.samples was 1, is 2"),
        (["--seed", "7"], "sampling.seed was 0, is 7"),
        (["--limit", "5"], "questions.number was 80, is 5"),
        (["--checkpoint", "other"], "model.sha256 was"),
    ):
        assert main(["eval", str(begun), "--out", "out", *arguments]) == 2
        captured = capsys.readouterr().err
        assert "the evaluation in out has other settings" in captured
        assert message in captured
    with (begun.parent / "corpus.jsonl").open("a") as file:
        file.write('{"id": "9", "title": "Oslo", "text": "Oslo is in Norway."}\n')
    assert main(["eval", str(begun), "--out", "out"]) == 2
    assert "index.version was" in capsys.readouterr().err


def test_what_does_not_change_figures_may_change(begun: Path) -> None:
    changes = ["--set", "rollout.search_retries=2", "--set", "rollout.concurrency=9", "--set", "training.steps=4"]
    assert main(["eval", str(begun), "--out", "out", *changes]) == 0


def test_a_complete_evaluation_is_not_played_again(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    script(play)
    assert main(["eval", str(many), "--out", "out"]) == 0
    first = capsys.readouterr().out
    before = (many.parent / "out" / "results.json").stat().st_mtime_ns
    assert main(["eval", str(many), "--out", "out"]) == 0
    captured = capsys.readouterr()
    assert captured.out == first
    assert "was complete already" in caplog.text
    assert (many.parent / "out" / "results.json").stat().st_mtime_ns == before


def test_a_question_that_was_half_finished_keeps_its_finished_samples(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    dying: Callable[[int], list[str]],
) -> None:
    script(play)
    arguments = ["eval", str(many), "--samples", "3", "--out"]
    assert main([*arguments, "whole"]) == 0
    dying(50)
    assert main([*arguments, "out"]) == 3
    dying(10**6)
    assert main([*arguments, "out"]) == 0
    assert results(many.parent / "out") == results(many.parent / "whole")


def test_rollouts_that_failed_are_played_again(
    config_file: Path,
    script: Callable[..., list[ModelConfig]],
    watched: Callable[[Watch], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    obstacle = block_results(config_file.parent / "out", script)
    cursed = {"capital of 001"}

    def fail(queries: Sequence[str]) -> None:
        if cursed.intersection(queries):
            raise RetrieverError("HTTP 500")

    watched(fail)
    assert main(["eval", str(config_file), "--out", "out"]) == 1
    assert "4 finished rollouts are kept in out/finished.jsonl" in capsys.readouterr().err
    obstacle.unlink()
    obstacle.parent.rmdir()
    cursed.clear()
    script(play)
    assert main(["eval", str(config_file), "--out", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["geo"]["metrics"]["failed"]["mean"] == 0


def test_a_full_disk_is_said_clearly_and_loses_nothing(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(play)
    root, write = many.parent, os.write
    written: list[bytes] = []

    def full(file: int, data: bytes) -> int:
        if len(written) >= 30 and len(data) > 100:
            write(file, data[: len(data) // 2])  # half a record fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(data)
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert main(["eval", str(many), "--out", "out"]) == 1
    captured = capsys.readouterr().err
    assert "No space left on device" in captured
    assert "the 30 before it are safe" in captured
    assert "Traceback" not in captured
    assert len(list(read_trajectories(root / "out" / "finished.jsonl", strict=True))) == 30
    assert main(["eval", str(many), "--out", "out"]) == 0
    assert json.loads((root / "out" / "results.json").read_text())["all"]["num_questions"] == 80


def test_results_that_cannot_be_written_keep_the_journal(
    many: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    obstacle = block_results(many.parent / "out", script)
    assert main(["eval", str(many), "--out", "out"]) == 1
    assert "80 finished rollouts are kept in out/finished.jsonl" in capsys.readouterr().err
    obstacle.unlink()
    obstacle.parent.rmdir()
    loaded = script(lambda episode, turn: pytest.fail("nothing is left to play"))
    assert main(["eval", str(many), "--out", "out"]) == 0
    assert loaded


SLOW_ENGINE = textwrap.dedent("""
    import time
    from calibadv.rollout import ScriptedPolicy

    def write(episode, turn):
        time.sleep(0.01)
        return ("hm</think><search>capital of x</search>", "ok</think><answer>Paris</answer>")[turn]

    def engine(config, *, tokenizer, model):
        return ScriptedPolicy(write, tokenizer=tokenizer, max_rows=2)
""")
HANGING_RETRIEVER = textwrap.dedent("""
    import threading
    from calibadv.retrieval import BM25Retriever
    from calibadv.retrieval.corpus.read import read_corpus

    class Hanging:
        def __init__(self):
            self.inner, self.calls = BM25Retriever.from_documents(read_corpus("corpus.jsonl")), 0

        def search(self, queries, k):
            self.calls += 1
            if self.calls > 10:
                open("hangs", "w").close()
                threading.Event().wait()
            return self.inner.search(queries, k)
""")


def start(config: Path) -> subprocess.Popen[str]:
    (config.parent / "scripted.py").write_text(SLOW_ENGINE)
    command = [sys.executable, "-m", "calibadv", "eval", str(config), "--out", "out"]
    return subprocess.Popen(command, cwd=config.parent, stderr=subprocess.PIPE, text=True)


def wait_for_rollouts(config: Path, number: int, process: subprocess.Popen[str]) -> None:
    path = config.parent / "out" / "finished.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") <= number:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_a_killed_evaluation_is_continued(many: Path, script: Callable[..., list[ModelConfig]]) -> None:
    process = start(many)
    wait_for_rollouts(many, 10, process)
    process.kill()
    process.communicate()
    path = many.parent / "out" / "finished.jsonl"
    with path.open("ab") as file:
        file.write(b'{"torn')  # as a kill in the middle of a write leaves it
    with pytest.warns(RuntimeWarning, match="ends in the middle of a record"):
        kept = len(list(read_trajectories(path)))
    assert kept >= 10
    script(play)
    with pytest.warns(RuntimeWarning, match="torn by a crash"):
        assert main(["eval", str(many), "--out", "out"]) == 0
    lines = (many.parent / "out" / "questions.jsonl").read_text().splitlines()
    assert len({(json.loads(line)["dataset"], json.loads(line)["id"]) for line in lines}) == len(lines) == 80


def test_ctrl_c_says_how_to_go_on(many: Path) -> None:
    process = start(many)
    wait_for_rollouts(many, 5, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "finished rollouts are kept in out/finished.jsonl; the same command with --out out continues" in err
    assert "Traceback" not in err


@pytest.mark.timeout(120)
def test_one_ctrl_c_does_not_wait_for_a_search_that_never_ends(many: Path) -> None:
    (many.parent / "hanging.py").write_text(HANGING_RETRIEVER)
    text = many.read_text("utf-8").replace('corpus = "corpus.jsonl"', 'retriever = "hanging:Hanging"')
    many.write_text(text, "utf-8")
    process = start(many)
    wait_for_rollouts(many, 5, process)
    while not (many.parent / "hangs").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(list(read_trajectories(many.parent / "out" / "finished.jsonl", strict=True))) >= 5


@pytest.mark.slow
def test_a_retriever_that_dies_at_question_500_of_1000(
    many: Path,
    script: Callable[..., list[ModelConfig]],
    dying: Callable[[int], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(play)
    rows = [{"id": str(i), "question": f"Capital number {i}?", "golden_answers": ["Paris"]} for i in range(1000)]
    (many.parent / "geo.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["eval", str(many), "--set", "data.test=['geo.test.jsonl']", "--out", "out"]
    dying(500)
    assert main(arguments) == 3
    kept = sum(1 for _ in read_trajectories(many.parent / "out" / "finished.jsonl"))
    assert 490 <= kept <= 500
    answered = dying(10**6)
    assert main(arguments) == 0
    assert len(answered) == 1000 - kept
    assert json.loads((many.parent / "out" / "results.json").read_text())["geo"]["num_questions"] == 1000
