"""A seeded fictional encyclopedia: people, films, bands, books, towns and companies that refer to each other.

Each entity has one document. Its text is a list of facts, *relation before entity* and without filler words::

    Title: Ora Timbel
    director Timbel Drael Vano. premiere Timbel 1956. studio Timbel Skourn Kesha.

A document calls its subject by the last word of the name. Names share words on purpose (see `_draw_names`), and a *name
page* (title ``Timbel``, text ``Ora Timbel. Vik Timbel.``) lists the bearers of a shared last word; so word matching
finds look-alikes, and pages that answer nothing. The world is made of two regions, "train" and "test", that never refer
to each other: no article of a test question plays a part in a training question.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from calibadv.errors import ConfigError
from calibadv.lab import names
from calibadv.trajectory import Document


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

TRAIN_SHARE = 0.6
"""Part of the entities of each kind that live in the training region."""
NAMES_PER_FIRST_WORD = 4
"""How many names share a first word on average."""
SIBLING_SHARE = 0.2
"""Names that take their last word from an earlier name."""
HOMONYM_SHARE = 0.06
"""Names that are the same as that of an entity of another kind."""

_LITERALS = {"year": names.YEARS, "country": names.COUNTRIES, "river": names.RIVERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One relation of one entity."""

    relation: str
    value: str
    target: int | None
    """Index of the entity that ``value`` names; None for a year, a country or a river."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Someone or something with an article."""

    index: int
    kind: str
    name: str
    split: str
    """Its region, "train" or "test"."""
    facts: tuple[Fact, ...]

    @property
    def last_word(self) -> str:
        """How the article calls its subject."""
        return self.name.split()[-1]

    def fact(self, relation: str) -> Fact | None:
        """The fact with this relation, if the article states it."""
        return next((fact for fact in self.facts if fact.relation == relation), None)

    @property
    def text(self) -> str:
        """The text of its document."""
        return " ".join(f"{fact.relation} {self.last_word} {fact.value}." for fact in self.facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabWorld:
    """One encyclopedia."""

    seed: int
    entities: tuple[Entity, ...]

    @classmethod
    def make(cls, seed: int, *, size: int = 300) -> LabWorld:
        """The world of this seed with ``size`` articles.

        >>> world = LabWorld.make(7, size=60)
        >>> world == LabWorld.make(7, size=60), len(world.documents) >= 60
        (True, True)
        """
        if size < 40:
            raise ConfigError(f"world size must be >= 40 (every kind needs a few entities in both splits), got {size}")
        rng = random.Random(f"calibadv-lab-world-{seed}-{size}")
        kinds = _draw_kinds(size)
        spelled = _draw_names(kinds, rng=rng)
        regions: dict[tuple[str, str], list[int]] = {}
        splits: list[str] = []
        for index, kind in enumerate(kinds):
            train, test = (regions.setdefault((split, kind.name), []) for split in ("train", "test"))
            split = "train" if len(train) <= TRAIN_SHARE * (len(train) + len(test)) else "test"
            regions[split, kind.name].append(index)
            splits.append(split)
        entities = tuple(
            Entity(
                index=i,
                kind=kind.name,
                name=name,
                split=split,
                facts=_draw_facts(
                    i, kind, regions={k: v for (s, k), v in regions.items() if s == split}, names_of=spelled, rng=rng
                ),
            )
            for i, (kind, name, split) in enumerate(zip(kinds, spelled, splits, strict=True))
        )
        return cls(seed=seed, entities=entities)

    @property
    def documents(self) -> list[Document]:
        """The corpus: an article for each entity of either split, then a name page for each shared last word."""
        articles = [Document(id=self.document_id(e.index), title=e.name, text=e.text) for e in self.entities]
        bearers: dict[str, dict[str, None]] = {}  # last word -> different names, in order
        for entity in self.entities:
            bearers.setdefault(entity.last_word, {})[entity.name] = None
        pages = [
            Document(id=f"w{self.seed}-{word}", title=word, text=" ".join(f"{name}." for name in list(alike)[:4]))
            for word, alike in bearers.items()
            if len(alike) > 1
        ]
        return articles + pages

    def document_id(self, index: int) -> str:
        """Id of the document about this entity."""
        return f"w{self.seed}-{index}"


def _draw_kinds(size: int) -> list[Kind]:
    """Kinds in their shares, people first; rounding goes to them."""
    counts = [round(size * kind.share) for kind in KINDS]
    counts[0] += size - sum(counts)
    return [kind for kind, count in zip(KINDS, counts, strict=True) for _ in range(count)]


def _draw_names(kinds: list[Kind], *, rng: random.Random) -> list[str]:
    """A name for each entity, different within a kind, many of them alike in one word or both."""
    first_words = rng.sample(names.FIRST_WORDS, k=min(len(names.FIRST_WORDS), len(kinds) // NAMES_PER_FIRST_WORD))
    fresh = list(names.LAST_WORDS)
    rng.shuffle(fresh)
    spelled: list[str] = []
    taken: set[tuple[str, str]] = set()
    for kind in kinds:
        while True:
            earlier = rng.choice(spelled) if spelled else ""
            roll = rng.random()
            if earlier and roll < HOMONYM_SHARE:
                name = earlier
            elif earlier and roll < HOMONYM_SHARE + SIBLING_SHARE:
                name = f"{rng.choice(first_words)} {earlier.split()[1]}"
            else:
                name = f"{rng.choice(first_words)} {fresh.pop() if fresh else rng.choice(names.LAST_WORDS)}"
            if (kind.name, name) not in taken:
                break
        taken.add((kind.name, name))
        spelled.append(name)
    return spelled


def _draw_facts(
    index: int,
    kind: Kind,
    *,
    regions: dict[str, list[int]],
    names_of: list[str],
    rng: random.Random,
) -> tuple[Fact, ...]:
    """Some of the kind's relations in random order, with values from the entity's own region."""
    relations = rng.sample(list(kind.relations), k=FACTS_PER_DOCUMENT)
    facts: list[Fact] = []
    for relation in relations:
        value_kind = kind.relations[relation]
        if value_kind in _LITERALS:
            facts.append(Fact(relation=relation, value=rng.choice(_LITERALS[value_kind]), target=None))
            continue
        # Nobody is their own spouse, and two facts of one article never name the same entity.
        used = {index, *(fact.target for fact in facts)}
        target = rng.choice([i for i in regions[value_kind] if i not in used])
        facts.append(Fact(relation=relation, value=names_of[target], target=target))
    return tuple(facts)
