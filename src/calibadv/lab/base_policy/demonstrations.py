"""Programmatic trajectories: what a good (or a careless) agent would write, in the rollout's own token layout.

A demonstration is a list of tokens, each with the weight of its loss: 1 for what the model writes, 0 for the prompt and
the observations. The layout is that of `calibadv.dialogue`: question, ``<think>``, then turns and observations; a test
compares it with the real rendering, token for token.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from calibadv.lab import names
from calibadv.lab.base_policy import phrases
from calibadv.lab.questions import Puzzle
from calibadv.lab.world import KIND_BY_NAME, YEAR_RELATIONS, Entity, Fact, LabWorld
from calibadv.trajectory import Document

Search = Callable[[str], list[Document]]
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How the demonstrated agent behaves. The defaults never make a mistake; shares are of episodes, or as stated."""

    sentences: float = 0.7
    """Mean number of sentences of free thinking in a turn."""
    rambling: float = 0.0
    """Turns after an observation that continue with doubting sentences ..."""
    rambling_sentences: tuple[int, int] = (3, 8)
    """... at least and at most this many ..."""
    rambling_error: float = 0.8
    """... and then read a wrong fact with this chance: so wrong trajectories have longer answer turns."""
    early_stop: float = 0.0
    """Answers with the value of an earlier hop."""
    wrong_relation: float = 0.0
    """Looks up another relation of the right entity."""
    wrong_document: float = 0.0
    """Reads a fact of another document."""
    garbled: float = 0.0
    """Thinks in random words."""
    format_slip: float = 0.0
    """Leaves out a tag."""
    repeat: float = 0.0
    """Searches for the same thing again."""
    skipped_search: float = 0.0
    """Answers without searching."""


_SLIPS = ("early_stop", "wrong_relation", "wrong_document", "garbled", "format_slip", "repeat", "skipped_search")


@dataclass(slots=True)
class Demonstration:
    """Tokens and loss weights, written from left to right."""

    tokens: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def read(self, *tokens: str) -> None:
        """Append what the model is given."""
        self.tokens += tokens
        self.weights += [0.0] * len(tokens)

    def write(self, *tokens: str, weight: float = 1.0) -> None:
        """Append what the model writes."""
        self.tokens += tokens
        self.weights += [weight] * len(tokens)


@functools.lru_cache(maxsize=20_000)
def split_words(text: str) -> tuple[str, ...]:
    """The tokens of plain text.

    >>> split_words("director Timbel Drael Vano.")
    ('director', 'Timbel', 'Drael', 'Vano', '.')
    """
    return tuple(_WORDS.findall(text))


def observation_tokens(documents: list[Document]) -> list[str]:
    """The tokens of an observation with its think prefill."""
    tokens = ["<information>"]
    for number, document in enumerate(documents, start=1):
        tokens += (f'Doc {number}(Title: "', *split_words(document.title), '")', *split_words(document.text))
    return [*tokens, "</information>", "<think>"]


class Agent:
    """Answers puzzles about one world by a script."""

    def __init__(
        self, world: LabWorld, *, search: Search, habits: Habits, rng: random.Random, max_searches: int
    ) -> None:
        self.world, self.search, self.habits, self.rng, self.max_searches = world, search, habits, rng, max_searches
        self._by_id = {world.document_id(entity.index): entity for entity in world.entities}

    def demonstrate(self, puzzle: Puzzle) -> Demonstration:
        """One episode."""
        return _Episode(self, puzzle).play()

    def entity_of(self, document: Document) -> Entity | None:
        """Whose article this is; None for a name page."""
        return self._by_id.get(document.id)


class _Episode:
    """One demonstration in the making. ``pending`` is what the next turn's thinking will state."""

    def __init__(self, agent: Agent, puzzle: Puzzle) -> None:
        self.agent, self.puzzle, self.rng, self.world = agent, puzzle, agent.rng, agent.world
        self.out = Demonstration()
        self.pending: list[str] = []
        self.searches = 0
        habits, roll = agent.habits, agent.rng.random
        self.doubts = 0
        self.slips = {name: roll() < getattr(habits, name) for name in _SLIPS}
        self.slip_at = self.rng.randrange(len(puzzle.steps))

    def play(self) -> Demonstration:
        puzzle, rng = self.puzzle, self.rng
        self.out.read(*split_words(puzzle.text), "<think>")
        if self.slips["skipped_search"]:
            self._answer(rng.choice(self.world.entities).name)
            return self.out
        values: list[str] = []
        hops = len(puzzle.steps)
        for number, (relation, index) in enumerate(puzzle.steps):
            entity = self.world.entities[index]
            slip = number == self.slip_at
            if slip and self.slips["wrong_relation"]:
                others = [fact.relation for fact in entity.facts if fact.relation != relation]
                relation = rng.choice(others)
            value, broken = self._look_up(relation, entity, slip=slip)
            if broken:
                return self.out
            values.append(value)
            followed = number + 1 < hops and puzzle.type != "comparison"
            stray = followed and value != self.world.entities[puzzle.steps[number + 1][1]].name
            stops = self.slips["early_stop"] and puzzle.type != "comparison" and number == min(self.slip_at, hops - 2)
            if stray or stops or self.searches >= self.agent.max_searches:
                break
        if puzzle.type == "comparison" and len(values) == 2 and all(value in names.YEARS for value in values):
            winner = self.world.entities[puzzle.steps[0 if values[0] <= values[1] else 1][1]]
            self.pending += [phrases.EARLIER, winner.last_word]
            self._answer(winner.name)
        else:
            self._answer(values[-1])
        return self.out

    def _look_up(self, relation: str, entity: Entity, *, slip: bool) -> tuple[str, bool]:
        """Search until the article is found and read it; the value read, and whether a slip ended the episode."""
        documents: list[Document] = []
        for query in (f"{relation} {entity.name}", f"{entity.name} {relation} {relation}"):
            if self._turn(("<search>", *query.split(), "</search>"), slip=slip):
                return "", True
            documents = self._see(query)
            if slip and self.slips["repeat"] and self.searches < self.agent.max_searches:
                self._turn(("<search>", *query.split(), "</search>"), slip=False)
                documents = self._see(query)
            if any(self.agent.entity_of(d) is entity for d in documents) or self.searches >= self.agent.max_searches:
                break
            self.pending = phrases.NOT_FOUND.split()
        fact = self._read(relation, entity, documents, careless=slip and self.slips["wrong_document"])
        return fact.value, False

    def _read(self, relation: str, entity: Entity, documents: list[Document], *, careless: bool) -> Fact:
        """The fact that the next turn's thinking states: the right one unless it is not there or a slip is due."""
        habits, rng = self.agent.habits, self.rng
        readable = [e for e in map(self.agent.entity_of, documents) if e is not None]
        if rng.random() < habits.rambling:
            self.doubts = rng.randint(*habits.rambling_sentences)
            careless = careless or rng.random() < habits.rambling_error
        fact = entity.fact(relation) if entity in readable else None
        if careless or fact is None:
            wrong = [f for e in readable or [entity] for f in e.facts if f is not fact]
            same = [f for f in wrong if f.relation == relation]
            fact = rng.choice(same if same and rng.random() < 0.5 else wrong)
            entity = next(e for e in readable or [entity] if fact in e.facts)
        self.pending = [fact.relation, entity.last_word, *fact.value.split()]
        return fact

    def _see(self, query: str) -> list[Document]:
        self.searches += 1
        documents = self.agent.search(query)
        self.out.read(*observation_tokens(documents))
        return documents

    def _answer(self, value: str) -> None:
        self._turn(("<answer>", *value.split(), "</answer>"), slip=self.searches > 0 and self.rng.random() < 0.5)

    def _turn(self, action: tuple[str, ...], *, slip: bool) -> bool:
        """Write thinking and action; True when a format slip ended the episode."""
        rng, write = self.rng, self.out.write
        mean, empty = self.agent.habits.sentences, not self.pending  # an empty thought would be bad format
        write(*phrases.think(rng, mean=mean, after_search=self.searches > 0, at_least_one=empty))
        write(*phrases.doubt(rng, sentences=self.doubts))
        self.doubts = 0
        if slip and self.slips["garbled"]:
            write(*rng.choices(names.FIRST_WORDS + names.LAST_WORDS, k=rng.randrange(8, 20)))
        write(*self.pending)
        self.pending = []
        if not (slip and self.slips["format_slip"]):
            write("</think>", *action)
            return False
        self.slips["format_slip"] = False
        kind = rng.randrange(4)
        if kind == 0:  # the thinking is never closed; the action still counts
            write(*action)
        elif kind == 1:
            write("</think>", *action[1:-1], "<eos>")
        elif kind == 2:
            write("</think>", *action[:-1], "<eos>")
        else:
            write("</think>", "<eos>")
        return kind > 0


def reading_drill(rng: random.Random, *, easy: bool, key_weight: float = 0.05) -> Demonstration:
    """Documents, then "relation, entity, value" lines to copy out of them: where reading is learned."""
    style = "easy" if easy else rng.choices(("one relation", "articles", "comparison"), weights=(0.35, 0.5, 0.15))[0]
    if style == "comparison":
        return _comparison_drill(rng)
    if style == "easy":
        kinds, shown = [rng.choice(list(KIND_BY_NAME))], rng.choice((1, 2))
    elif style == "one relation":
        kinds, shown = [rng.choice(list(KIND_BY_NAME))] * rng.choice((2, 3, 4)), rng.choice((1, 1, 2, 3))
    else:
        kinds, shown = rng.choices(list(KIND_BY_NAME), k=rng.choice((2, 2, 3))), 3
    common = rng.sample(list(KIND_BY_NAME[kinds[0]].relations), k=shown) if style == "one relation" else None
    documents, lines = [], []
    for word, kind in zip(rng.sample(names.LAST_WORDS, k=len(kinds)), kinds, strict=True):
        relations = list(common or rng.sample(list(KIND_BY_NAME[kind].relations), k=shown))
        rng.shuffle(relations)
        facts = [(relation, word, _random_value(rng, kind, relation)) for relation in relations]
        text = " ".join(f"{relation} {last} {value}." for relation, last, value in facts)
        documents.append(Document(id=word, title=f"{rng.choice(names.FIRST_WORDS)} {word}", text=text))
        lines += facts
    out = Demonstration()
    out.read(*observation_tokens(documents))
    for relation, word, value in rng.choices(lines, k=3) if easy else rng.sample(lines, k=min(len(lines), 6)):
        out.write(relation, word, weight=key_weight)
        out.write(*value.split())
    return out


def _comparison_drill(rng: random.Random) -> Demonstration:
    """Two years read one after the other, then the entity with the earlier one."""
    relation = rng.choice(sorted(YEAR_RELATIONS))
    entities, years = rng.sample(names.LAST_WORDS, k=2), rng.sample(names.YEARS, k=2)
    out = Demonstration()
    for word, year in zip(entities, years, strict=True):
        title = f"{rng.choice(names.FIRST_WORDS)} {word}"
        out.read(*observation_tokens([Document(id=word, title=title, text=f"{relation} {word} {year}.")]))
        out.write(relation, word, year)
    out.write(phrases.EARLIER, entities[years.index(min(years))])
    return out


def _random_value(rng: random.Random, kind: str, relation: str) -> str:
    pools = {"year": names.YEARS, "country": names.COUNTRIES, "river": names.RIVERS}
    pool = pools.get(KIND_BY_NAME[kind].relations[relation])
    return rng.choice(pool) if pool else f"{rng.choice(names.FIRST_WORDS)} {rng.choice(names.LAST_WORDS)}"
