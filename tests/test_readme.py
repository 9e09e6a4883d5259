"""The README's commands, run as they stand there, in their order, after ``make lab`` in an empty folder.

What is long is shortened by options behind the line (`SHORTER`); what needs the network or the reader's own files finds
small files of the names that the README uses.
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
from pathlib import Path

import pytest

from calibadv.lab import LabWorld, make_questions
from calibadv.trajectory import Question

ROOT = Path(__file__).parents[1]
WORLD = LabWorld.make(5, size=60)
SHORTER = {
    "make lab": 'ARGS="--steps 4 --test-questions 20"',
    "make test": "--dry-run",
    "calibadv eval runs/lab": "--limit 20",
    "calibadv serve": "--port 0",
    "calibadv lab --steps": "--steps 2 --test-questions 4",
    "calibadv doctor": "--set training.questions_per_batch=4",
    "calibadv train configs/lab.toml": "--set training.steps=4 --set training.eval_every=4 --set evaluation.limit=8",
    "calibadv retriever serve": "--port 0",
    "calibadv data prepare": "--source ./hub",
}
"""What is put behind a line that begins so."""
SERVERS = ("calibadv serve", "calibadv retriever serve")
MODEL_CONFIG = """
[model]
path = "package:calibadv.lab/weights/base"
device = "cpu"
[data]
train = ["../questions.jsonl"]
test = ["../questions.test.jsonl"]
[retrieval]
corpus = "../passages.jsonl.gz"
[rollout]
max_searches = 2
max_turn_tokens = 40
max_observation_tokens = 100
[training]
steps = 2
questions_per_batch = 4
num_rollouts = 4
mini_batches = 1
threads = 1
output = "../runs/smollm2-miniwiki"
[sft]
questions = ["../questions.jsonl"]
epochs = 1
batch = 4
format_check = 2
"""


def lines_of_the_readme() -> list[str]:
    """The lines of the shell blocks under "Commands", comments aside."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Commands\n") : text.index("\n## Results\n")]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def rows(questions: list[Question]) -> str:
    dumped = [{"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers)} for q in questions]
    return "".join(json.dumps(row) + "\n" for row in dumped)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone in which ``make install`` was run, with the files that the reader would bring."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.prefix) / "bin")
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "lab.toml", tmp_path / "configs")
    (tmp_path / "configs" / "smollm2-miniwiki.toml").write_text(MODEL_CONFIG, encoding="utf-8")
    with gzip.open(tmp_path / "passages.jsonl.gz", "wt", encoding="utf-8") as file:
        for document in WORLD.documents:
            file.write(json.dumps({"id": document.id, "title": document.title, "text": document.text}) + "\n")
    asked = [q for q in make_questions(WORLD, "train") if q.metadata["type"] == "1-hop"]
    (tmp_path / "questions.jsonl").write_text(rows(asked[:12]), encoding="utf-8")
    (tmp_path / "questions.test.jsonl").write_text(rows(asked[12:16]), encoding="utf-8")
    for number, name in enumerate(("hotpotqa", "nq")):
        (tmp_path / "hub" / name).mkdir(parents=True)
        for part, split in enumerate(("train", "test", "dev")):
            some = asked[4 * part + 2 * number : 4 * part + 2 * number + 2]
            (tmp_path / "hub" / name / f"{split}.jsonl").write_text(rows(some), encoding="utf-8")
    return tmp_path


@pytest.fixture
def servers() -> Iterator[list[subprocess.Popen[str]]]:
    """Servers that the README starts; all must end well when they are interrupted."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.send_signal(signal.SIGINT)
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MAKEFLAGS": "",
    }


def serve(line: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a server and wait until it says its address."""
    process = subprocess.Popen(
        shlex.split(line),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for said in process.stdout:
        if address := re.search(r"http://[\d.]+:\d+", said):
            return process, address.group()
    pytest.fail(f"{line}\n{process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_readme_runs_in_its_order(folder: Path, servers: list[subprocess.Popen[str]]) -> None:
    lines = lines_of_the_readme()
    assert lines[0] == "make lab"
    assert all(any(line.startswith(start) for line in lines) for start in SHORTER)
    address = "http://127.0.0.1:8000"
    for line in lines:
        more = next((option for start, option in SHORTER.items() if line.startswith(start)), "")
        command = f"{line} {more}".replace("http://127.0.0.1:8000", address)
        if line.startswith(SERVERS):
            process, address = serve(command, folder)
            servers.append(process)
            continue
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, command
        assert done.stdout, command
    assert (folder / "runs" / "lab" / "report.html").is_file()
