"""A sharded optimizer makes the weights of a whole one, over two processes, also when the run is cut in two."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from calibadv.lab import LabWorld, load_policy
from calibadv.training import read_metrics

CONFIG = """
[model]
path = "{model}"
device = "cpu"
[data]
train = ["questions.train.jsonl"]
[retrieval]
corpus = "corpus.jsonl"
[rollout]
prompt = "question"
top_k = 2
max_searches = 2
max_turn_tokens = 40
[training]
steps = 4
questions_per_batch = 4
num_rollouts = 4
mini_batches = 2
micro_batch = 4
learning_rate = 4e-4
lr_schedule = "constant"
save_every = 2
threads = 1
"""


def train(*arguments):
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "calibadv", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *command, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sharded_and_whole_optimizers_make_the_same_weights(tmp_path):
    LabWorld.make(3, size=60).write(tmp_path)
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(model=load_policy()), "utf-8")
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    train(config, "--set", f"training.output={whole}")
    on = ["--set", "training.shard_optimizer=true"]
    train(config, "--set", f"training.output={sharded}", "--set", "training.steps=2", *on)
    train("--resume", sharded, "--set", "training.steps=4")
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (sharded, whole))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    lines, wanted = ([line["reward"] for line in read_metrics(run / "metrics.jsonl")] for run in (sharded, whole))
    assert lines == wanted
    sizes = [(run / "checkpoint-4" / "optimizer.pt").stat().st_size for run in (sharded, whole)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05), "a checkpoint holds the moments of all processes"
