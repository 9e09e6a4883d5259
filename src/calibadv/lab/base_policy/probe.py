"""Does a policy really read? F1 on worlds of its training, on worlds it never saw, and with random documents.

A policy that reads scores nearly nothing with random documents and about the same on seen and unseen worlds; one that
has memorised its world does the opposite.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from annotated_types import Ge

from calibadv.config_class import Remedy, config_class
from calibadv.lab.base_policy.pretrain import FIRST_PRETRAINING_WORLD
from calibadv.lab.questions import make_questions
from calibadv.lab.world import LabWorld
from calibadv.models.config import ModelConfig
from calibadv.models.load import load_model
from calibadv.retrieval.base import Hit, Retriever
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.rewards.format import is_well_formed
from calibadv.rewards.outcome import outcome_reward, score_trajectory
from calibadv.rollout.batch import rollout
from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.policy import Policy
from calibadv.trajectory import Document, Question, Trajectory

MAX_RANDOM_F1 = 0.1
"""A policy that reads has at most this F1 with random documents."""
MIN_UNSEEN_SHARE = 0.6
"""A policy that reads keeps at least this part of its F1 on a world it never saw."""


@config_class()
class ProbeConfig:
    """What is measured."""

    num_questions: Annotated[int, Ge(2), Remedy("fewer have no standard error")] = 200
    """Test questions of each world."""
    seen_worlds: tuple[int, ...] = (FIRST_PRETRAINING_WORLD, FIRST_PRETRAINING_WORLD + 1)
    """Seeds of worlds that the policy was trained on (`world_size` as in its training)."""
    unseen_worlds: tuple[int, ...] = (901, 902)
    """Seeds of worlds that it never saw; also those of the random documents."""
    world_size: int = 240
    temperature: float = 1.0
    top_k: int = 2
    max_searches: int = 4
    max_turn_tokens: int = 80
    seed: int = 0


class RandomDocuments:
    """A retriever that ignores what it is asked: every query gets random documents, the same ones each time."""

    def __init__(self, documents: Sequence[Document], *, seed: int) -> None:
        self._documents = list(documents)
        self._seed = seed

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [
            [Hit(document, 0.0) for document in random.Random(f"{self._seed}-{query}").sample(self._documents, k)]
            for query in queries
        ]


def probe(policy_dir: Path | str, *, config: ProbeConfig | None = None) -> dict[str, Any]:
    """Measure the policy in ``policy_dir``; the result is plain data, ready for JSON (`probe_table` draws it)."""
    from calibadv.rollout.policies.transformers import TransformersPolicy

    config = config or ProbeConfig()
    model, tokenizer = load_model(ModelConfig(path=Path(policy_dir), device="cpu"))
    conditions: dict[str, Any] = {}
    for name, seeds, shuffled in (
        ("training worlds", config.seen_worlds, False),
        ("unseen worlds", config.unseen_worlds, False),
        ("random documents", config.unseen_worlds, True),
    ):
        trajectories: list[Trajectory] = []
        for seed in seeds:
            world = LabWorld.make(seed, size=config.world_size)
            documents = world.documents
            retriever = RandomDocuments(documents, seed=seed) if shuffled else BM25Retriever.from_documents(documents)
            policy = TransformersPolicy(model, tokenizer)
            questions = make_questions(world, "test", count=config.num_questions)
            trajectories += play(questions, policy=policy, retriever=retriever, tokenizer=tokenizer, config=config)
        conditions[name] = measure(trajectories)
    f1 = {name: row["f1"]["mean"] for name, row in conditions.items()}
    kept = f1["unseen worlds"] / f1["training worlds"] if f1["training worlds"] else 0.0
    reads = kept >= MIN_UNSEEN_SHARE and f1["random documents"] <= MAX_RANDOM_F1 < f1["unseen worlds"]
    return {
        "policy": Path(policy_dir).name,
        "config": asdict(config),
        "conditions": conditions,
        "unseen_share": round(kept, 4),
        "reads": reads,
    }


def play(
    questions: Sequence[Question], *, policy: Policy, retriever: Retriever, tokenizer: Any, config: ProbeConfig
) -> tuple[Trajectory, ...]:
    """One rollout of each question, by the real engine."""
    settings = RolloutConfig(
        prompt="question", temperature=config.temperature, top_k=config.top_k,
        max_searches=config.max_searches, max_turn_tokens=config.max_turn_tokens,
    )  # fmt: skip
    result = rollout(
        questions,
        num_rollouts=1,
        policy=policy,
        retriever=retriever,
        tokenizer=tokenizer,
        config=settings,
        seed=config.seed,
    )
    return result.trajectories


def measure(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Means with standard errors: F1 and EM (0 without valid format), format, searches, length, surprise per token."""
    rows: dict[str, list[float]] = {"f1": [], "em": [], "format": [], "searches": [], "tokens": [], "surprise": []}
    by_type: dict[str, list[float]] = {}
    for trajectory in trajectories:
        valid = is_well_formed(trajectory)
        reward = outcome_reward(trajectory, score="f1")
        logprobs = [value for turn in trajectory.turns for value in turn.logprobs]
        rows["f1"].append(reward)
        rows["em"].append(score_trajectory(trajectory)["em"] * valid)
        rows["format"].append(float(valid))
        rows["searches"].append(len(trajectory.search_turns))
        rows["tokens"].append(len(logprobs))
        rows["surprise"].append(-sum(logprobs) / max(len(logprobs), 1))
        by_type.setdefault(str(trajectory.question.metadata.get("type", "")), []).append(reward)
    return {
        "questions": len(trajectories),
        **{name: _mean(values) for name, values in rows.items()},
        "f1_by_type": {name: _mean(values) for name, values in sorted(by_type.items())},
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(fmean(values), 4), "se": round(error, 4)}


def probe_table(result: dict[str, Any]) -> str:
    """The result as a Markdown table with a verdict."""
    types = sorted({name for row in result["conditions"].values() for name in row["f1_by_type"]})
    lines = [markdown_row("", "F1", "EM", "format", *(f"F1 {name}" for name in types)), "|---" * (4 + len(types)) + "|"]
    for name, row in result["conditions"].items():
        scores = [f"{row[key]['mean']:.3f} ± {row[key]['se']:.3f}" for key in ("f1", "em")]
        by_type = [f"{row['f1_by_type'][t]['mean']:.3f}" if t in row["f1_by_type"] else "-" for t in types]
        lines.append(markdown_row(name, *scores, f"{row['format']['mean']:.2f}", *by_type))
    verdict = "reads" if result["reads"] else "does not pass as a reader"
    lines.append(
        f"\nThis policy {verdict}: on unseen worlds it keeps {result['unseen_share']:.0%} of its F1 (wanted: >= "
        f"{MIN_UNSEEN_SHARE:.0%}), with random documents it has "
        f"{result['conditions']['random documents']['f1']['mean']:.3f} (wanted: <= {MAX_RANDOM_F1})."
    )
    return "\n".join(lines)


def markdown_row(*cells: str) -> str:
    """A row of a table.

    >>> markdown_row("", "F1")
    '| | F1 |'
    """
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
