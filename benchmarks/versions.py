"""Speed of this version against another one: rollouts, training steps and the retrieval server.

    python benchmarks/versions.py --against ../old [--pairs 3] [--work rollout train_step retriever_server] [--json]

``--against`` is a checkout of the other version. Each runs its own script of ``benchmarks/`` on its own sources, in new
processes that take turns, so that whatever else the machine does meets both. A ratio is the median over the pairs;
above 1, this version is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
Seconds = dict[str, float]


def of_rollout(report: dict[str, Any]) -> Seconds:
    """Of one batch of rollouts."""
    ours = report["ours"]
    return {"rollout of the lab, CPU s": ours["cpu_s"], "rollout of the lab, wall s": ours["wall_s"]}


def of_train_step(report: list[dict[str, Any]]) -> Seconds:
    """Of one training step, with the size of passes that is fastest: versions count rows or tokens."""
    return {"training step, CPU s": min(row["cpu"] for row in report if row["arm"] == "ours")}


def of_retriever_server(report: dict[str, Any]) -> Seconds:
    """Of a thousand queries, by clients."""
    return {
        f"retrieval server, {row['clients']} clients, s per 1,000 queries": 1000 / row["ours q/s"]
        for row in report["bm25"]["rows"]
    }


WORK: dict[str, tuple[list[str], Callable[[Any], Seconds]]] = {
    "rollout": (["--against", "", "--repeats", "2"], of_rollout),
    "train_step": (["--repeats", "2"], of_train_step),
    "retriever_server": (
        ["--modes", "bm25", "--clients", "1", "32", "--seconds", "3", "--rounds", "2"], of_retriever_server,
    ),
}  # fmt: skip


def measure(name: str, *, checkout: Path) -> Seconds:
    """What one version's own script says about itself."""
    arguments, read = WORK[name]
    done = subprocess.run(
        [sys.executable, str(checkout / "benchmarks" / f"{name}.py"), "--json", *arguments],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return read(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT", help="of the other version")
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="of runs (default: 3)")
    parser.add_argument("--work", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.work:
        pairs = [
            (measure(name, checkout=HERE), measure(name, checkout=arguments.against.resolve()))
            for _ in range(arguments.pairs)
        ]
        for figure in pairs[0][0]:
            rows[figure] = {
                "this": statistics.median(new[figure] for new, _ in pairs),
                "other": statistics.median(old[figure] for _, old in pairs),
                "ratio": statistics.median(old[figure] / new[figure] for new, old in pairs),
            }
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| | this | other | ratio |\n|---|---|---|---|")
    for figure, row in rows.items():
        print(f"| {figure} | {row['this']:.2f} | {row['other']:.2f} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()
