"""Speed of rollouts with vLLM in the training process and slow searches: our loop against TRL's tool loop.

    python benchmarks/vllm_rollout.py [--questions 40] [--rollouts 5] [--repeats 3] [--json]

Both drive one and the same vLLM (TRL's ``VLLMGeneration`` in this process, the lab's policy), in turn, with the same
prompts, tags, documents and limits. A search takes 0.05 to 2 s, log-normal around 0.3 s, the same for the same query.
TRL's loop generates in lock-step and calls its tools rollout by rollout. "lock-step" is a loop that it does not have: a
round's searches all at once; its time is TRL's, with the sum of a round's searches replaced by the longest of them.

Printed beside the times: how much of ours is spent neither in vLLM's steps nor waiting for a search. Needs vLLM
(scripts/test-vllm makes an environment with it).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rollout import TrlLoop, Work, lab

from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.rollout import RolloutConfig, rollout
from calibadv.training.overrides.colocated_vllm import colocated, colocated_policy

SHORTEST_S, MIDDLE_S, LONGEST_S = 0.05, 0.3, 2.0
SEARCH_THREADS = 64
Counts = dict[str, float]


def latency_s(query: str) -> float:
    """How long the search for a query takes."""
    return min(LONGEST_S, max(SHORTEST_S, random.Random(query).lognormvariate(math.log(MIDDLE_S), 0.9)))


class SlowRetriever:
    """Answers queries side by side, as a server does: a call takes as long as its slowest query."""

    def __init__(self, inner: Retriever) -> None:
        self.inner = inner
        self.longest_s: list[float] = []
        """Of each call."""
        self.total_s: list[float] = []
        """All queries of each call."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As `Retriever.search`."""
        seconds = [latency_s(query.strip()) for query in queries]
        self.longest_s.append(max(seconds))
        self.total_s.append(sum(seconds))
        time.sleep(max(seconds))
        return self.inner.search(queries, k)


class Steps:
    """Counts the time inside of vLLM's steps."""

    def __init__(self, engine: Any) -> None:
        self.seconds = 0.0
        step: Callable[[], Any] = engine.step

        def timed() -> Any:
            start = time.perf_counter()
            try:
                return step()
            finally:
                self.seconds += time.perf_counter() - start

        engine.step = timed


def ours(work: Work, policy: Any, retriever: SlowRetriever, steps: Steps, *, seed: int) -> Counts:
    """Our scheduler, with searches in the background."""
    config = RolloutConfig(
        prompt="question", top_k=2, max_searches=4, max_turn_tokens=64, max_context_tokens=1000,
        search_threads=SEARCH_THREADS,
    )  # fmt: skip
    steps.seconds = 0.0
    result = rollout(
        work.questions, num_rollouts=work.rollouts, policy=policy, retriever=retriever, tokenizer=work.tokenizer,
        config=config, seed=seed,
    )  # fmt: skip
    total, waiting = result.seconds["total"], result.seconds["search_wait"]
    return {
        "wall_s": total,
        "steps_s": steps.seconds,
        "waiting_s": waiting,
        "outside": (total - steps.seconds - waiting) / total,
        "searches": result.counters["searches"],
        "generated_tokens": result.counters["generated_tokens"],
    }


def theirs(loop: TrlLoop, retriever: SlowRetriever, steps: Steps) -> tuple[Counts, Counts]:
    """TRL's tool loop, and what it would take with the searches of a round all at once."""
    retriever.total_s.clear()
    steps.seconds = 0.0
    start = time.perf_counter()
    rounds: list[int] = []  # searches made before each generation
    once = loop.trainer._generate_single_turn

    def counted(*args: Any, **kwargs: Any) -> Any:
        rounds.append(len(retriever.total_s))
        return once(*args, **kwargs)

    loop.trainer._generate_single_turn = counted
    try:
        counts = loop()
    finally:
        loop.trainer._generate_single_turn = once
    wall = time.perf_counter() - start
    shared = {"searches": counts["searches"], "generated_tokens": counts["generated_tokens"], "steps_s": steps.seconds}
    pieces = [retriever.total_s[a:b] for a, b in zip(rounds, [*rounds[1:], len(retriever.total_s)], strict=True)]
    searching = sum(retriever.total_s)
    at_once = wall - searching + sum(max(piece, default=0.0) for piece in pieces)
    return {"wall_s": wall, "waiting_s": searching, **shared}, {"wall_s": at_once, **shared}


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = args.questions * args.rollouts
    work = lab(args.questions, args.rollouts, rows, "float32")
    assert isinstance(work.retriever, BM25Retriever)
    retriever = SlowRetriever(work.retriever)
    work.retriever = retriever
    arguments = {"dtype": "float32", "max_num_seqs": rows, "enforce_eager": True}
    with tempfile.TemporaryDirectory() as folder, colocated(arguments):
        loop = TrlLoop(
            work, folder, use_vllm=True, vllm_mode="colocate", vllm_max_model_length=1024,
            generation_kwargs={"stop_token_ids": work.stop_ids},
        )  # fmt: skip
        generation = loop.trainer.vllm_generation
        steps = Steps(generation.llm.llm_engine)
        policy = colocated_policy(generation, work.tokenizer, eos_ids=work.stop_ids)
        found: dict[str, list[Counts]] = {"ours": [], "TRL's tool loop": [], "lock-step": []}
        for repeat in range(-1, args.repeats):
            mine = ours(work, policy, retriever, steps, seed=repeat + 1)
            trl, lockstep = theirs(loop, retriever, steps)
            sys.stderr.write(f"run {repeat + 1}: ours {mine['wall_s']:.1f} s, TRL {trl['wall_s']:.1f} s\n")
            if repeat >= 0:
                for name, counts in zip(found, (mine, trl, lockstep), strict=True):
                    found[name].append(counts)
        generation.close()
    report = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    for name, runs in found.items():
        ratios = [theirs["wall_s"] / mine["wall_s"] for theirs, mine in zip(runs, found["ours"], strict=True)]
        report[name]["speed-up of ours"] = statistics.median(ratios)
    if args.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return
    for name, counts in report.items():
        sys.stdout.write(f"{name}:" + "".join(f"  {key} {value:.3g}" for key, value in counts.items()) + "\n")


if __name__ == "__main__":
    main()
