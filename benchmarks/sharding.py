"""What two processes cost: the share of an update that is communication, and the memory of gradient buckets.

    python benchmarks/sharding.py [--json] [--hidden 384] [--layers 8] [--rows 4] [--tokens 256] [--rounds 3]

An update is forward and backward of ``rows`` sequences in each process, gradients clipped, one step of AdamW, on a
random Llama. Every process has one core to itself where the system can bind them. Arms, interleaved over the rounds:

- "one": one process, nothing to send
- "ddp": two processes, whole weights, gradients as views of the buckets, as training does
- "ddp, own buckets": the same as torch and the Trainer do it
- "fsdp2": two processes, one unit a layer, gathered for forward and backward, as accelerate shards

The communication share of an arm is 1 - (time of "one") / (its own): each process has the same work in all of them.
Memory is the peak of one process's resident set beyond what it had before the model was made.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ARMS = {"one": 1, "ddp": 2, "ddp, own buckets": 2, "fsdp2": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    for name, default in (("hidden", 384), ("layers", 8), ("rows", 4), ("tokens", 256), ("repeats", 3), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)  # in the processes that this one starts
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds):
        for arm in ARMS:
            found[arm].append(processes_of(arm, options))
    alone = statistics.median(round_["seconds"] for round_ in found["one"])
    rows = []
    for arm, rounds in found.items():
        seconds = statistics.median(round_["seconds"] for round_ in rounds)
        rows.append(
            {
                "arm": arm,
                "processes": ARMS[arm],
                "parameters": int(rounds[0]["parameters"]),
                "seconds_an_update": round(seconds, 3),
                "communication_share": round(max(0.0, 1 - alone / seconds), 3),
                "peak_mb": round(max(round_["peak_mb"] for round_ in rounds)),
                "bytes_a_parameter": round(max(r["peak_mb"] for r in rounds) * 1e6 / rounds[0]["parameters"], 1),
            }
        )
    print(json.dumps(rows) if options.json else table(rows))


def processes_of(arm: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one arm; the figures of its slowest process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = ARMS[arm]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    settings = [f"--{name}={getattr(options, name)}" for name in ("hidden", "layers", "rows", "tokens", "repeats")]
    command = [sys.executable, __file__, *settings, "--arm", arm]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | shared | {"RANK": str(rank)})
        for rank in range(count)
    ]
    figures = []
    for process in started:
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{arm}: a process ended with {process.returncode}")
        figures.append(json.loads(output.splitlines()[-1]))
    return {name: max(figure[name] for figure in figures) for name in figures[0]}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """In one process of an arm."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    if ARMS[options.arm] > 1:
        torch.distributed.init_process_group("gloo")
    warm_up()
    before = memory_mb("VmRSS")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=options.hidden, intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    whole: Any = LlamaForCausalLM(config)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    model = wrapped(whole, options.arm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, config.vocab_size, (options.rows, options.tokens))
    seconds = []
    for _ in range(options.repeats + 1):
        start = time.perf_counter()
        for n, row in enumerate(torch.split(ids, 1)):  # one row at a time: activations are small beside weights
            waits = n < len(ids) - 1 and hasattr(model, "no_sync")  # DDP sends once an update, FSDP2 every time
            with model.no_sync() if waits else nullcontext():
                model(input_ids=row, labels=row).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    peak = memory_mb("VmHWM") - before
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return {"seconds": statistics.median(seconds[1:]), "peak_mb": peak, "parameters": float(parameters)}


def warm_up() -> None:
    """What torch loads at its first use belongs to no arm."""
    import torch

    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(1, 8)).sum().backward()
    torch.optim.AdamW(layer.parameters()).step()


def wrapped(model: Any, arm: str) -> Any:
    """The model as an arm's processes hold it."""
    import torch
    from torch.distributed.fsdp import fully_shard

    if arm == "one":
        return model
    if arm != "fsdp2":
        return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=arm == "ddp")
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard([model.model.norm, model.model.embed_tokens, model.lm_head], reshard_after_forward=False)
    return fully_shard(model)


def memory_mb(name: str) -> float:
    """A figure of this process from the system (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name + ":"))


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
