"""How long the method takes: advantages of a whole batch, spread over tokens; and query correctness before that.

    python benchmarks/advantage.py [--json]

Rows hold 5 trajectories a question, 5 turns a trajectory, 4,096 token columns. ``seconds`` is the best of several
runs of `calibrate` plus `spread` in one thread; ``peak_mb`` is the most memory that NumPy and Python held at once, the
result included. Query correctness is measured with many silver documents, for thinking that differs from turn to turn,
as it should, and for a bad case: each turn shuffles more than half of the earlier words, so counting words settles
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from calibadv.advantage import TrajectoryEvidence, TurnEvidence, calibrate, query_correctness, spread

GROUP_SIZE = 5
NUM_TURNS = 5
NUM_COLUMNS = 4096
BATCHES = (40, 320, 2_560, 40_960)
QUERY_GROUPS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    as_json = parser.parse_args().json
    results = {"rows": [advantages_row(n) for n in BATCHES], "query_correctness": list(map(correctness_row, CASES))}
    if as_json:
        print(json.dumps(results, indent=1))
        return
    for title, rows in results.items():
        print({"rows": "calibrate + spread"}.get(title, title.replace("_", " ")))
        print("  ".join(f"{name:>14}" for name in rows[0]))
        for row in rows:
            print(
                "  ".join(f"{value:>14,.4f}" if isinstance(value, float) else f"{value:>14}" for value in row.values())
            )
        print()


def advantages_row(num_trajectories: int) -> dict[str, Any]:
    """Calibrate a batch and spread it over its tokens."""
    rng = np.random.default_rng(0)
    num_tokens_NK = rng.integers(20, 300, (num_trajectories, NUM_TURNS))
    gaps_NK = rng.integers(50, 400, (num_trajectories, NUM_TURNS))
    starts_NK = np.cumsum(num_tokens_NK + gaps_NK, axis=1) - num_tokens_NK
    correctness_NK = rng.choice([np.nan, 0.0, 1 / 3, 1.0], (num_trajectories, NUM_TURNS))
    rewards_N = rng.choice([0.0, 0.5, 1.0], num_trajectories)
    group_ids = [f"question-{n // GROUP_SIZE}" for n in rng.permutation(num_trajectories)]

    def run() -> None:
        advantages_NK, _ = calibrate(
            rewards_N, group_ids=group_ids, correctness_NK=correctness_NK, num_tokens_NK=num_tokens_NK
        )
        spread(advantages_NK, starts_NK=starts_NK, num_tokens_NK=num_tokens_NK, num_columns=NUM_COLUMNS)

    return {"trajectories": num_trajectories, "tokens": NUM_COLUMNS, **measured(run, repeats=5)}


def correctness_row(case: str) -> dict[str, Any]:
    """Silver documents and query correctness of 512 groups, four searches a trajectory, three documents a search."""
    rng = random.Random(0)
    num_words, share_repeated = CASES[case]
    evidence_N, group_ids = [], []
    for group in range(QUERY_GROUPS):
        for _ in range(GROUP_SIZE):
            turns = []
            words = rng.choices(WORDS, k=num_words)
            for _ in range(NUM_TURNS - 1):
                kept = round(share_repeated * num_words)
                words = [*words[:kept], *rng.choices(WORDS, k=num_words - kept)]
                rng.shuffle(words)
                documents = tuple(f"document-{rng.randrange(40)}" for _ in range(3))
                turns.append(TurnEvidence(" ".join(words), documents))
            turns.append(TurnEvidence("so", ()))
            score = rng.choice([0.0, 0.0, 0.0, 1.0])
            evidence_N.append(TrajectoryEvidence(turns=tuple(turns), score=score, format_valid=True))
            group_ids.append(f"question-{group}")

    def run() -> None:
        query_correctness(evidence_N, group_ids=group_ids)

    return {"groups": QUERY_GROUPS, "trajectories": len(evidence_N), "thinking": case, **measured(run, repeats=3)}


CASES = {"60 words": (60, 0.0), "300 words": (300, 0.0), "300, shuffled": (300, 0.6)}
"""Thinking: number of words, and which share of them comes back, in another order, in the next turn."""
WORDS = [f"word{i}" for i in range(2_000)]


def measured(run: Callable[[], None], *, repeats: int) -> dict[str, float]:
    """Best time of several runs, and the peak of one more."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    run()
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return {"seconds": round(min(seconds), 6), "peak_mb": round(peak_mb, 1)}


if __name__ == "__main__":
    main()
