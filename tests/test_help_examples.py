"""The examples of the commands' help, run as they stand there, on small files of the names that they use.

What is long is shortened by options behind the line (`SHORTER`). What needs something that is not here is named with
the reason (`NEEDS`); that it is a command at all is tested of every example.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App

from calibadv.cli.main import COMMANDS, main, make_app
from calibadv.data.trajectory_files import read_trajectories
from calibadv.lab import LabWorld, make_questions

ROOT = Path(__file__).parents[1]
WORLD = LabWorld.make(5, size=60)
SERVERS = ("calibadv serve", "calibadv retriever serve")
NEEDS = {
    "intfloat/": "an encoder of the hub",
    "wiki/dense": "an index made with it",
    "--model org/model": "a model of the hub",
    "corpus import BeIR/scifact": "a data set of the hub",
    "index pull": "an index of the hub",
    "wiki-18/flat": "the same",
    "e5_Flat.index": "the published index, 60 GiB",
    "https://host/v1": "a paid service",
    "--host 0.0.0.0": "a server that other machines can reach",
    "configs/qwen2.5-3b.toml": "a GPU and a model of the hub",
    "--mix 2,1 --limit 30000": "a training set of 30,000 questions",
    "popqa": "the seven published sets",
    "lab pretrain": "two minutes and more; its parts are tested with the lab",
}
"""A part of the example, and what it needs that a test must not have."""
SHORTER = {
    "calibadv lab probe": "--questions 4",
    "calibadv lab world": "",
    "calibadv lab": "--steps 2 --test-questions 4",
    "calibadv doctor": "--set training.questions_per_batch=4",
    "calibadv train configs/lab.toml": "--set training.steps=4 --set training.eval_every=4 --set evaluation.limit=4",
    "calibadv train --resume": "",
    "calibadv eval diff": "",
    "calibadv eval score": "",
    "calibadv eval": "--limit 4",
    "calibadv serve": "--port 0",
    "calibadv retriever serve": "--port 0",
}
"""What is put behind a line that begins so; the first that fits counts."""
OTHERWISE = {
    "--questions 400": "--questions 4",
    "--steps 10 ": "--steps 2 ",
    "--limit 50 --samples 4": "--samples 4",
    "--seeds 3": "--seeds 1",
    "--out runs/world --seed 7": "--out runs/other-world --seed 7",
    "--datasets nq --split test --out data": "--datasets nq --split test --out other-data",
    '"Who ...?"': '"tell me the country of the hometown of Flim Godi."',
    "--question 17": "--question QUESTION",
    "--arms grpo,calibadv,calibadv:lambda=0.5": "--arms calibadv:lambda=0.5 --seeds 1",
    "step-000010": "step-000004",
    "checkpoint-20": "checkpoint-4",
    "--source my/folder": "--source copy",
    "--source my/flashrag": "--source copy",
    "--split train,test --out data": "--split train,test --out data --source copy",
    "nq,bamboogle": "nq",
    "--set training.steps=60": "--set training.steps=6",
}
"""Parts of an example that are changed: numbers that make it long, folders that the reader names."""
EXAMPLE = re.compile(r"^  (calibadv(?:.*\\\n)*.*)$", re.MULTILINE)


def examples() -> list[str]:
    """Every command that a help text shows, once, without its comment."""
    root = make_app()
    apps: list[App] = [root]
    for name in COMMANDS:
        apps += [root[name], *(root[name][inner] for inner in root[name] if not inner.startswith("-"))]
    texts = [text for app in apps for text in EXAMPLE.findall(app.help_epilogue or "")]
    return list(dict.fromkeys(re.split(r" {2,}(?!-)", text.replace("\\\n      ", ""))[0] for text in texts))


def order(text: str) -> int:
    """What makes a folder comes before what reads it."""
    makers = (
        "lab", "lab --out", "lab world", "doctor", "train configs/lab.toml", "train", "corpus import", "index build",
        "data prepare --datasets", "sft",
    )  # fmt: skip
    ranks = [rank for rank, maker in enumerate(makers) if text.startswith(f"calibadv {maker}")]
    return len(makers) + ("init" in text) if not ranks or "lab probe" in text else max(ranks)


def rows(asked: list[tuple[str, str, list[str]]]) -> str:
    return "".join(json.dumps({"id": i, "question": q, "golden_answers": a}) + "\n" for i, q, a in asked)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that a reader of the help would bring."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(ROOT / "configs", "configs")
    documents = [{"id": d.id, "title": d.title, "text": d.text} for d in WORLD.documents]
    with gzip.open("wiki-18.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(document) + "\n" for document in documents)
    Path("notes").mkdir()
    for number, document in enumerate(documents[:3]):
        Path(f"notes/{number}.md").write_text(document["text"], encoding="utf-8")
    for number in (1, 2):
        part = documents[10 * number : 10 * number + 10]
        table = {"key": [d["id"] for d in part], "body": [d["text"] for d in part], "title": [d["title"] for d in part]}
        pq.write_table(pa.table(table), f"part-{number}.parquet")
    asked = [
        (q.id, q.text, list(q.golden_answers)) for q in make_questions(WORLD, "train") if q.metadata["type"] == "1-hop"
    ]
    for name in ("questions", "nq.test", "hotpotqa.test"):
        Path(f"{name}.jsonl").write_text(rows(asked[:6]), encoding="utf-8")
    for name in ("nq", "hotpotqa"):
        Path("copy", name).mkdir(parents=True)
        for number, split in enumerate(("train", "test", "dev")):
            some = asked[6 * number : 6 * number + 6]
            Path("copy", name, f"{split}.jsonl").write_text(rows(some), encoding="utf-8")
    with gzip.open("traces.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(4):
            text = "<think>x</think><search>y</search><information>z</information><think>w</think><answer>a</answer>"
            trace = {"id": str(number), "question": "?", "golden_answers": ["a"], "response": text, "run": "v1-base"}
            file.write(json.dumps(trace) + "\n")
    config = (ROOT / "configs" / "lab.toml").read_text(encoding="utf-8")
    config = config.replace("../runs/lab-run", "../runs/smollm2-miniwiki")
    config = config.replace("../runs/world/corpus.jsonl", "../wiki-18.jsonl.gz")
    sft = '\n[sft]\nquestions = ["../questions.jsonl"]\nepochs = 1\nbatch = 4\nformat_check = 2\n'
    Path("configs/smollm2-miniwiki.toml").write_text(config + sft, encoding="utf-8")
    for name in ("Qwen/Qwen2.5-3B-Instruct", "my/model", "runs/lab-base"):
        shutil.copytree(str(files("calibadv.lab") / "weights" / "base"), name)
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """A retrieval server."""
    make = ["corpus import wiki-18.jsonl.gz --out server", "index build server --method bm25"]
    assert [main(shlex.split(line)) for line in make] == [0, 0]
    process, address = serve("calibadv retriever serve server/bm25 --port 0")
    yield address
    stop(process)


def serve(line: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server and wait until it says its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    for said in process.stdout:
        if found := re.search(r"http://[\d.]+:\d+", said):
            return process, found.group()
    pytest.fail(f"{line}\n{process.communicate()[1]}")


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors


def shortened(text: str) -> str:
    for long, short in OTHERWISE.items():
        text = text.replace(long, short)
    return f"{text} {next((more for start, more in SHORTER.items() if text.startswith(start)), '')}"


def question_of(folder: Path) -> str:
    """The id of a question in the newest batch of a lab's run."""
    path = max(folder.glob("calibadv-seed0/trajectories/*.jsonl.gz"))
    return next(iter(read_trajectories(path))).trajectory.question.id


def bring(text: str) -> None:
    """What an example takes for granted: what other examples made, under the names that it gives them."""
    run = Path("runs/lab-run")
    if not Path("wiki").exists() and Path("corpora/wiki/bm25").exists():
        shutil.copytree("corpora/wiki", "wiki")
    if "train" not in text and not Path("runs/my-run").exists() and (run / "model").exists():
        for _ in range(2):
            assert main(["eval", str(run), "--limit", "4"]) == 0
        shutil.copytree(run, "runs/my-run")
    if text.startswith("calibadv train configs/lab.toml") and not re.search("dry-run|output", text):
        shutil.rmtree(run, ignore_errors=True)
    if text.startswith("calibadv lab --out"):
        shutil.rmtree("runs/lab", ignore_errors=True)
    if text.startswith("calibadv sft configs") and "--resume" not in text:
        shutil.rmtree("runs/smollm2-miniwiki-sft", ignore_errors=True)
    if text.startswith("calibadv init"):
        shutil.rmtree("configs", ignore_errors=True)
    for name, number in (("a", 1), ("b", 2)):
        if f" runs/{name}" in text:
            shutil.rmtree(f"runs/{name}", ignore_errors=True)
            shutil.copytree(run / f"eval-test-{number}" if "diff" in text else run, f"runs/{name}")


@pytest.mark.parametrize("text", sorted(examples()))
def test_an_example_is_a_command(text: str) -> None:
    command, bound, unknown = make_app().parse_args(shlex.split(text)[1:], exit_on_error=False, print_error=False)[:3]
    assert command.__module__.startswith(f"calibadv.cli.{shlex.split(text)[1]}")
    assert not unknown
    assert bound is not None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_examples_of_the_help_run(address: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = examples()
    assert all(any(part in text for text in shown) for part in NEEDS)
    failed = []
    for text in sorted((t for t in shown if not any(part in t for part in NEEDS)), key=order):
        bring(text)
        line = shortened(text.replace("http://127.0.0.1:8000", address))
        line = line.replace("QUESTION", question_of(Path("runs/lab")) if "QUESTION" in line else "")
        if text.startswith(SERVERS):
            stop(serve(line)[0])
            continue
        code = main(shlex.split(line)[1:])
        out, errors = capsys.readouterr()
        if code != 0 or not out:
            failed.append((line, code, out[-300:], errors[-600:]))
    assert failed == []
