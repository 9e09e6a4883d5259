"""Questions about a world, with the chain of facts that answers each one.

A `Puzzle` is a question together with its steps; `make_questions` hands out the plain `Question` whose metadata names
hops, type and gold documents. Comparison questions ask which of two entities of one kind came earlier.
"""

from __future__ import annotations

import json
import random
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError
from calibadv.lab.world import YEAR_RELATIONS, Entity, LabWorld
from calibadv.trajectory import Question

SHARES: dict[str, float] = {"1-hop": 0.35, "2-hop": 0.45, "3-hop": 0.10, "comparison": 0.10}
"""Question types and their parts of a question set."""

_CHAIN_FORMS = (
    "what is the {0} of {1}?",
    "tell me the {0} of {1}.",
    "i want to know the {0} of {1}.",
    "the {0} of {1}?",
)
_COMPARISON_FORMS = ("which had the earlier {0}, {1} or {2}?", "of {1} and {2}, which had the earlier {0}?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """A question and how to answer it."""

    text: str
    type: str
    steps: tuple[tuple[str, int], ...]
    """(relation, entity) to look up, in order; in a chain each entity is the value of the step before."""
    answer: str

    @property
    def key(self) -> object:
        """The same for two wordings of one question; a comparison is the same in either order, a chain is not."""
        return frozenset(self.steps) if self.type == "comparison" else self.steps


def draw_puzzle(
    world: LabWorld, *, entities: list[Entity], rng: random.Random, type: str | None = None
) -> Puzzle | None:
    """A random question about ``entities``; None when the draw has no question (a chain that ends too early)."""
    type = type or rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    start = rng.choice(entities)
    if type == "comparison":
        return _compare(start, entities, rng)
    steps: list[tuple[str, int]] = []
    entity, value = start, start.name
    hops = int(type[0])
    for hop in range(hops):
        facts = [f for f in entity.facts if hop == hops - 1 or f.target is not None]
        if not facts:
            return None
        fact = rng.choice(facts)
        steps.append((fact.relation, entity.index))
        value = fact.value
        if fact.target is not None:
            entity = world.entities[fact.target]
    if len({index for _, index in steps}) < hops or value == start.name:
        return None
    nested = start.name
    for relation, _ in steps[:-1]:
        nested = f"the {relation} of {nested}"
    nested = nested.removeprefix("the ") if hops == 1 else nested
    return Puzzle(
        text=rng.choice(_CHAIN_FORMS).format(steps[-1][0], nested), type=type, steps=tuple(steps), answer=value
    )


def _compare(one: Entity, entities: list[Entity], rng: random.Random) -> Puzzle | None:
    fact = next((f for f in one.facts if f.relation in YEAR_RELATIONS), None)
    other = rng.choice([e for e in entities if e.kind == one.kind])
    rival = other.fact(fact.relation) if fact else None
    if fact is None or rival is None or fact.value == rival.value or one.name == other.name:
        return None
    text = rng.choice(_COMPARISON_FORMS).format(fact.relation, one.name, other.name)
    steps = ((fact.relation, one.index), (fact.relation, other.index))
    winner = min((fact.value, one.name), (rival.value, other.name))[1]
    return Puzzle(text=text, type="comparison", steps=steps, answer=winner)


def make_questions(world: LabWorld, split: str, *, count: int | None = None) -> list[Question]:
    """``count`` different questions about one split of the world, in the parts of `SHARES`.

    Without a count: five for each entity of the split, or as many as a small world has.
    """
    entities = [entity for entity in world.entities if entity.split == split]
    if not entities:
        raise ConfigError(f'split must be "train" or "test", got {split!r}')
    wanted = 5 * len(entities) if count is None else count
    rng = random.Random(f"calibadv-lab-questions-{world.seed}-{len(world.entities)}-{split}")
    open_types = dict(SHARES)
    puzzles: dict[object, Puzzle] = {}
    while len(puzzles) < wanted and open_types:
        type = rng.choices(list(open_types), weights=list(open_types.values()))[0]
        puzzle = _draw_new(world, entities=entities, rng=rng, type=type, known=puzzles)
        if puzzle is None:
            del open_types[type]
        else:
            puzzles[puzzle.key] = puzzle
    if count is not None and len(puzzles) < count:
        raise ConfigError(
            f"count must be at most {len(puzzles)}, the {split} questions found in a world of this size, got {count}"
        )
    return [_question(world, split, number, puzzle) for number, puzzle in enumerate(puzzles.values())]


def _draw_new(
    world: LabWorld, *, entities: list[Entity], rng: random.Random, type: str, known: Container[object]
) -> Puzzle | None:
    """A question of this type that is not known yet; None when the type seems used up."""
    for _ in range(500):
        puzzle = draw_puzzle(world, entities=entities, rng=rng, type=type)
        if puzzle is not None and puzzle.key not in known:
            return puzzle
    return None


def _question(world: LabWorld, split: str, number: int, puzzle: Puzzle) -> Question:
    return Question(
        id=f"w{world.seed}-{split}-{number}",
        text=puzzle.text,
        golden_answers=(puzzle.answer,),
        dataset="lab",
        metadata={
            "hops": len(puzzle.steps),
            "type": puzzle.type,
            "gold_documents": [world.document_id(index) for _, index in puzzle.steps],
        },
    )


def write_world(world: LabWorld, folder: Path) -> None:
    """Write ``corpus.jsonl`` (wiki-18 form) and ``questions.{train,test}.jsonl`` (FlashRAG form)."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus: list[dict[str, Any]] = [{"id": d.id, "contents": f'"{d.title}"\n{d.text}'} for d in world.documents]
    _write_lines(folder / "corpus.jsonl", corpus)
    for split in ("train", "test"):
        rows: list[dict[str, Any]] = [
            {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "metadata": dict(q.metadata)}
            for q in make_questions(world, split)
        ]
        _write_lines(folder / f"questions.{split}.jsonl", rows)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
