"""``benchmarks/gpu.py`` on a CPU: every part runs with what a bare machine has; one that fails loses nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SERVERS = ("fastapi", "uvicorn", "prometheus_client", "starlette")
NOT_ON_A_BARE_MACHINE = (
    "cyclopts", "docstring_parser", "faiss", "matplotlib", "rich", "sentence_transformers", "tantivy", *SERVERS,
)  # fmt: skip
BLOCK = """
import sys

class WithoutSome:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.split(".")[0] in {names!r}
        return None if absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [WithoutSome(finder) for finder in sys.meta_path]
"""


def benchmark(folder: Path, *arguments: str, absent: Sequence[str] = ()) -> dict[str, Any]:
    """Run it where some packages cannot be imported."""
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=set(absent)), encoding="utf-8")
    paths = [str(folder), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    out = folder / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--tiny", "--out", str(out), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_runs_with_what_a_bare_machine_has(tmp_path: Path) -> None:
    report = benchmark(tmp_path, absent=NOT_ON_A_BARE_MACHINE)
    parts = report["parts"]
    assert parts.pop("server")["skipped"] == "needs fastapi, uvicorn"
    assert {name: part.get("error") for name, part in parts.items()} == dict.fromkeys(parts)
    assert all(part["rows"] for part in parts.values())
    ours, trl = parts["update"]["rows"]
    assert (ours["batching"], trl["batching"]) == ("ours", "trl")
    assert ours["tokens"] == trl["tokens"] > ours["scored"] > 0
    assert ours["loss"] == pytest.approx(trl["loss"], rel=1e-2), "both train on the same"
    assert all(row["same"] for row in parts["lab"]["rows"] if "same" in row)
    assert all(row["right"] for row in parts["search"]["rows"])
    for row in parts["decode"]["rows"]:
        assert row["written"] / row["tokens_per_s"] == pytest.approx(row["step_s"] * row["steps"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_part_that_is_stopped_or_lacks_a_package_leaves_the_others_alone(tmp_path: Path) -> None:
    report = benchmark(tmp_path, "--parts", "lab,decode", "--limit", "0.1", absent=["trl"])
    assert report["parts"]["lab"] == {"rows": [], "skipped": "needs trl"}
    assert report["parts"]["decode"]["error"] == "stopped after its limit of 0.1 s"
    assert report["device"]["name"] == "cpu"
