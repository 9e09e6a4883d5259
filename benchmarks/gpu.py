"""Everything worth knowing about a GPU machine in eight minutes, without network, data, weights and vLLM.

    python benchmarks/gpu.py [--parts machine,decode,update] [--out gpu.json] [--tiny] [--limit SECONDS]

- "machine": bfloat16 products, memory bandwidth, launches
- "decode": tokens a second of our engine at 64 to 512 rows, models of Qwen2.5-0.5B, 3B and 7B shape
- "update": tokens a second and peak memory of an update, with our micro-batches and with TRL's
- "lab": calibrated training of the lab's policy, compared with the CPU
- "search": exact search of 21 M vectors; "rerank": pairs a second of a cross-encoder
- "server": the retrieval server against a plain one at 32 clients

Each part is a process of its own with a time limit, and every row is written to ``--out`` as it is there: what crashes
or is killed loses nothing else. A part whose packages are missing is skipped and says which. ``--tiny`` runs everything
on a CPU in a minute or two. ``calibadv doctor CONFIG --gpus 8 --measured gpu.json`` plans with what was measured.

A bare machine needs torch, transformers, accelerate and peft; "update" and "lab" need trl and datasets too, with what
these need. Packed for a machine without network (36 MiB, most of it pyarrow without what is not used here):

    pip install --no-deps --only-binary=:all: --python-version 3.12 --target carried trl==1.16.0 datasets pyarrow \\
        pandas dill multiprocess xxhash pydantic pydantic-core annotated-types typing-inspection httpx2 httpcore2
    rm -rf carried/pyarrow/{include,tests,src,*flight*,*substrait*} carried/pandas/tests
    tar cJf carried.tar.xz -C carried .

There: ``mkdir carried && tar xJf carried.tar.xz -C carried``, then
``PYTHONPATH=src:carried python benchmarks/gpu.py``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.table import as_text

TRAINING = ("trl", "datasets", "pyarrow", "pandas", "accelerate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part; its module is ``gpu_parts.NAME``."""

    limit: float
    """Seconds."""
    needs: tuple[str, ...] = ()
    """Packages, besides torch and transformers."""


PARTS = {
    "machine": Part(limit=40),
    "update": Part(limit=150, needs=TRAINING),
    "decode": Part(limit=110),
    "lab": Part(limit=60, needs=TRAINING),
    "search": Part(limit=60),
    "rerank": Part(limit=30),
    "server": Part(limit=90, needs=("fastapi", "uvicorn", "pyarrow")),
}
"""In the order in which they run: what matters most comes first. Eight minutes are shared by what is there."""
WHOLE = 480.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the report, written after every row")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, to see that it runs")
    parser.add_argument("--limit", type=float, help="seconds of each part, instead of its own limit")
    parser.add_argument("--json", action="store_true", help="print the report instead of tables")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_part(options.run, options.rows, tiny=options.tiny)
        return
    names = [name.strip() for name in options.parts.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts {','.join(unknown)}: choose from {', '.join(PARTS)}")
    report = measure(names, options)
    sys.stdout.write(json.dumps(report, indent=1) if options.json else as_text(report))
    sys.stdout.write("\n")


def measure(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run the parts one after the other; the report is on disk whenever something is new."""
    report: dict[str, Any] = {"device": device(tiny=options.tiny), "tiny": options.tiny, "parts": {}}
    end = time.monotonic() + WHOLE
    for name in names:
        part = PARTS[name]
        missing = [package for package in part.needs if importlib.util.find_spec(package) is None]
        entry: dict[str, Any] = {"rows": []}
        report["parts"][name] = entry
        limit = options.limit or part.limit * (10 if options.tiny else 1)  # a CPU may be busy with other things
        if not options.tiny:
            limit = min(limit, end - time.monotonic())
        if missing:
            entry["skipped"] = f"needs {', '.join(missing)}"
        elif limit <= 0:
            entry["skipped"] = "no time left"
        else:
            sys.stderr.write(f"{name} ...\n")
            watch_part(name, entry, limit=limit, tiny=options.tiny, saved=lambda: save(report, options.out))
        save(report, options.out)
    return report


def watch_part(name: str, entry: dict[str, Any], *, limit: float, tiny: bool, saved: Any) -> None:
    """Run a part in a process of its own and take its rows as they come."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder) / "rows.jsonl", Path(folder) / "errors.txt"
        rows.touch()
        command = [sys.executable, __file__, "--run", name, "--rows", str(rows), *(["--tiny"] if tiny else [])]
        with errors.open("w") as stream, rows.open() as written:
            child = subprocess.Popen(command, stdout=stream, stderr=stream)
            try:
                while child.poll() is None:
                    if time.monotonic() - start > limit:
                        entry["error"] = f"stopped after its limit of {limit:g} s"
                        break
                    time.sleep(0.2)
                    if taken(written, entry["rows"]):
                        saved()
            finally:
                if child.poll() is None:
                    child.kill()
                child.wait()
            taken(written, entry["rows"])
        notes = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    entry["seconds"] = round(time.monotonic() - start, 1)
    entry["notes"] = [line for line in notes if line.startswith(f"{name}: ")]
    if child.returncode and "error" not in entry:
        entry["error"] = notes[-1] if notes else f"exit code {child.returncode}"


def taken(stream: Any, rows: list[dict[str, Any]]) -> bool:
    """Read the rows that are new and complete."""
    found = False
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(place)
            return found
        rows.append(json.loads(line))
        found = True


def run_part(name: str, rows: Path, *, tiny: bool) -> None:
    """In the part's own process: write each row as it is there."""
    import torch
    from gpu_parts.setup import Setup, say

    on_gpu = torch.cuda.is_available() and not tiny
    if not on_gpu and not tiny:
        sys.exit("no GPU can be used here; --tiny runs on a CPU")
    if tiny:
        torch.set_num_threads(1)
    part = importlib.import_module(f"gpu_parts.{name}")
    with tempfile.TemporaryDirectory() as folder, rows.open("a", encoding="utf-8") as stream:
        setup = Setup(device="cuda" if on_gpu else "cpu", tiny=tiny, folder=Path(folder))
        for row in part.run(setup):
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            say(f"  {row}")


def device(*, tiny: bool) -> dict[str, Any]:
    """What was measured, on which versions."""
    import torch
    import transformers

    about = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if tiny or not torch.cuda.is_available():
        return {"name": "cpu", "memory": None} | about
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory": properties.total_memory, "count": torch.cuda.device_count()} | about


def save(report: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
