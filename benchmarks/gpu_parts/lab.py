"""Calibrated training of the lab's policy on the device and on the CPU: the same metrics?

Float32 without TF32, the same seeds. Sums are added up in another order on a GPU, so a draw can fall on the other side
once in a while: the first batch must be the same, later ones nearly so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PrinterCallback

from calibadv.config import RunConfig
from calibadv.lab import LabWorld, load_policy
from calibadv.lab.questions import make_questions
from calibadv.models.load import load_model
from calibadv.retrieval.list_retriever import ListRetriever
from calibadv.runs.train import quiet
from calibadv.runs.trainer_args import trainer_config
from calibadv.training import CalibAdvTrainer, read_metrics
from calibadv.trajectory import Document
from gpu_parts.setup import Setup

METRICS = ("reward", "f1", "tokens", "searches", "loss", "grad_norm", "entropy")
TOLERANCE = 1e-3
"""Of the value, or absolute below 1."""


def run(setup: Setup) -> Iterator[dict[str, Any]]:
    cpu, device = (train(where, setup, run=run) for run, where in enumerate(("cpu", setup.device)))
    for batch, (a, b) in enumerate(zip(cpu, device, strict=True), start=1):
        for name in METRICS:
            same = abs(a[name] - b[name]) <= TOLERANCE * max(1.0, abs(a[name]))
            yield {"batch": batch, "metric": name, "cpu": a[name], "device": b[name], "same": same}
        yield {"batch": batch, "metric": "seconds", "cpu": a["seconds_step"], "device": b["seconds_step"]}


def train(device: str, setup: Setup, *, run: int) -> list[dict[str, Any]]:
    """Metrics of some batches."""
    world = LabWorld.make(901)
    config = RunConfig.from_mapping(
        {
            "model": {"path": str(load_policy()), "device": device},
            "retrieval": {"url": "http://127.0.0.1:9"},
            "rollout": {"prompt": "question", "top_k": 2, "max_searches": 3, "max_turn_tokens": 64},
            "training": {
                "steps": 4, "questions_per_batch": 4 if setup.tiny else 32, "num_rollouts": 5, "mini_batches": 2,
                "learning_rate": 4e-4, "threads": 1,
            },
        }
    )  # fmt: skip
    out = setup.folder / str(run)
    args = trainer_config(config, out)
    args.save_strategy = "no"
    model, tokenizer = load_model(config.model)
    with quiet():
        trainer = CalibAdvTrainer(
            model, args=args, train_questions=make_questions(world, "train"), retriever=word_retriever(world.documents),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return read_metrics(out / "metrics.jsonl")


def word_retriever(documents: Sequence[Document]) -> ListRetriever:
    """The documents that share most words with the query; no package is needed for it."""
    words = [(document, set(f"{document.title} {document.text}".lower().split())) for document in documents]

    def find(query: str) -> list[Document]:
        asked = set(query.lower().split())
        return [document for document, _ in sorted(words, key=lambda entry: -len(asked & entry[1]))[:5]]

    return ListRetriever(find)
