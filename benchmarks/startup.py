"""Processor time until something happens: importing calibadv, its help, the first word of `calibadv ask`.

    python benchmarks/startup.py
    python benchmarks/startup.py --against ../old/src          pairs of runs, one of each tree in turn, and their ratio

Every figure is user and system time of a whole new process. With ``--against`` the trees take turns, so that whatever
else the machine does meets both; the ratio is the median over the pairs, old by new (above 1: this tree is faster).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "src"
FIRST_WORD = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "calibadv", "ask", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
process.stdout.readline()
process.kill()
process.wait()
"""
WORK: dict[str, list[str]] = {
    "import calibadv": ["-c", "import calibadv"],
    "from calibadv import calibrate": ["-c", "from calibadv import calibrate"],
    "calibadv --help": ["-m", "calibadv", "--help"],
    "calibadv train --help": ["-m", "calibadv", "train", "--help"],
    "calibadv retriever serve --help": ["-m", "calibadv", "retriever", "serve", "--help"],
    "import torch": ["-c", "import torch"],
    "calibadv ask, first word": ["-c", FIRST_WORD, "tell me the country of the hometown of Flim Godi."],
}


def cpu_seconds(arguments: list[str], *, source: Path) -> float:
    """User and system time of one new process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
    subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="SRC", help="the sources of another version")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="of each (default: 7)")
    arguments = parser.parse_args()
    print("| | CPU s |" + (" before | ratio |" if arguments.against else ""))
    print("|---|---|" + ("---|---|" if arguments.against else ""))
    for name, command in WORK.items():
        cpu_seconds(command, source=HERE)  # once for the caches
        new, old = [], []
        for _ in range(arguments.runs):
            new.append(cpu_seconds(command, source=HERE))
            if arguments.against:
                old.append(cpu_seconds(command, source=arguments.against))
        row = f"| `{name}` | {statistics.median(new):.2f} |"
        if old:
            ratio = statistics.median(b / a for a, b in zip(new, old, strict=True))
            row += f" {statistics.median(old):.2f} | {ratio:.2f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
