"""What the encyclopedia knows: kinds of entity, and the relations that an article of each kind may state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of entity."""

    name: str
    share: float
    """Part of a world's entities; the shares add up to 1."""
    relations: dict[str, str]
    """Relation word -> kind of its value: a kind of entity, or "year", "country", "river"."""


KINDS: tuple[Kind, ...] = (
    Kind(
        name="person",
        share=0.34,
        relations={"birthplace": "town", "spouse": "person", "employer": "company", "birthyear": "year"},
    ),
    Kind(
        name="film",
        share=0.18,
        relations={"director": "person", "star": "person", "studio": "company", "premiere": "year"},
    ),
    Kind(
        name="band", share=0.14, relations={"singer": "person", "hometown": "town", "label": "company", "debut": "year"}
    ),
    Kind(name="book", share=0.12, relations={"author": "person", "publisher": "company", "publication": "year"}),
    Kind(name="town", share=0.12, relations={"mayor": "person", "river": "river", "country": "country"}),
    Kind(name="company", share=0.10, relations={"founder": "person", "headquarters": "town", "founding": "year"}),
)

KIND_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}

YEAR_RELATIONS: frozenset[str] = frozenset(
    r for kind in KINDS for r, value in kind.relations.items() if value == "year"
)

RELATIONS: tuple[str, ...] = tuple(r for kind in KINDS for r in kind.relations)

FACTS_PER_DOCUMENT = 3
"""An article states this many of its kind's relations; what it leaves out is not known to the world."""
