"""The encyclopedia and its questions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from calibadv.data.questions import load_questions
from calibadv.errors import ConfigError
from calibadv.lab import LabWorld
from calibadv.lab.questions import SHARES, draw_puzzle, make_questions, write_world
from calibadv.lab.world import FACTS_PER_DOCUMENT, KINDS, RELATIONS
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.retrieval.corpus.read import read_corpus
from calibadv.trajectory import Document, Question

WORLD = LabWorld.make(5, size=200)
DOCUMENTS = {document.id: document for document in WORLD.documents}
QUESTIONS = [*make_questions(WORLD, "train", count=250), *make_questions(WORLD, "test", count=150)]


def test_a_world_is_decided_by_its_seed_and_size() -> None:
    again = LabWorld.make(5, size=200)
    assert again.documents == WORLD.documents
    assert [(d.title, d.text) for d in again.documents] == [(d.title, d.text) for d in WORLD.documents]
    assert make_questions(again, "train", count=250) == QUESTIONS[:250]
    assert [e.name for e in LabWorld.make(6, size=200).entities] != [e.name for e in WORLD.entities]


def test_relations_belong_to_one_kind_only() -> None:
    assert len(set(RELATIONS)) == len(RELATIONS)
    assert sum(kind.share for kind in KINDS) == pytest.approx(1.0)


def test_document_ids_are_unique_and_articles_state_their_facts() -> None:
    assert len(DOCUMENTS) == len(WORLD.documents)
    for entity in WORLD.entities:
        document = DOCUMENTS[WORLD.document_id(entity.index)]
        assert document.title == entity.name
        assert len(entity.facts) == FACTS_PER_DOCUMENT
        for fact in entity.facts:
            assert f"{fact.relation} {entity.last_word} {fact.value}." in document.text


def test_names_are_different_within_a_kind_and_alike_across_the_world() -> None:
    assert len({(entity.kind, entity.name) for entity in WORLD.entities}) == len(WORLD.entities)
    assert len({entity.last_word for entity in WORLD.entities}) < len(WORLD.entities)
    pages = [d for d in DOCUMENTS.values() if " " not in d.title]
    assert pages
    assert all(page.text.count(page.title) >= 2 for page in pages)


def test_gold_documents_contain_the_answer() -> None:
    for question in QUESTIONS:
        gold = [DOCUMENTS[name] for name in question.metadata["gold_documents"]]
        assert len(gold) == question.metadata["hops"]
        where = " ".join(d.title for d in gold) if question.metadata["type"] == "comparison" else gold[-1].text
        assert question.golden_answers[0] in where


def test_every_hop_of_a_chain_leads_to_the_next_article() -> None:
    for question in QUESTIONS:
        if question.metadata["type"] != "comparison":
            gold = [DOCUMENTS[name] for name in question.metadata["gold_documents"]]
            assert gold[0].title in question.text
            for here, there in pairwise(gold):
                assert there.title in here.text
                assert there.title not in question.text or there.title == gold[0].title


def test_comparisons_name_the_entity_with_the_smaller_year() -> None:
    compared = [q for q in QUESTIONS if q.metadata["type"] == "comparison"]
    assert compared
    for question in compared:
        relation = next(word for word in question.text.replace(",", "").replace("?", "").split() if word in RELATIONS)
        years = {}
        for name in question.metadata["gold_documents"]:
            words = DOCUMENTS[name].text.replace(".", "").split()
            years[DOCUMENTS[name].title] = int(words[words.index(relation) + 2])
        assert min(years, key=years.__getitem__) == question.golden_answers[0]


def test_all_question_types_occur_about_as_often_as_stated() -> None:
    for name, share in SHARES.items():
        found = sum(q.metadata["type"] == name for q in QUESTIONS) / len(QUESTIONS)
        assert found == pytest.approx(share, abs=0.08)


def test_no_article_plays_a_part_in_both_splits() -> None:
    splits = {WORLD.document_id(entity.index): entity.split for entity in WORLD.entities}
    for question in QUESTIONS:
        assert {splits[name] for name in question.metadata["gold_documents"]} == {question.id.split("-")[1]}
    for entity in WORLD.entities:
        assert all(f.target is None or WORLD.entities[f.target].split == entity.split for f in entity.facts)
    assert {q.text for q in QUESTIONS[:250]}.isdisjoint(q.text for q in QUESTIONS[250:])


def test_asking_for_fewer_questions_gives_the_first_of_them() -> None:
    assert make_questions(WORLD, "train", count=40) == QUESTIONS[:40]
    assert len({q.id for q in QUESTIONS}) == len(QUESTIONS)


def test_a_chain_that_ends_too_early_is_no_question() -> None:
    drawn = [draw_puzzle(WORLD, entities=list(WORLD.entities), rng=random.Random(i), type="3-hop") for i in range(60)]
    assert None in drawn
    assert {puzzle.type for puzzle in drawn if puzzle} == {"3-hop"}


def test_bm25_finds_the_article_often_but_not_always() -> None:
    retriever = BM25Retriever.from_documents(WORLD.documents)
    facts = [(entity, fact) for entity in WORLD.entities for fact in entity.facts]
    recall = {}
    for style, queries in (
        ("relation and name", [f"{fact.relation} {entity.name}" for entity, fact in facts]),
        ("name", [entity.name for entity, _ in facts]),
    ):
        hits = retriever.search(queries, 2)
        for k in (1, 2):
            found = [
                WORLD.document_id(entity.index) in [hit.document.id for hit in row[:k]]
                for (entity, _), row in zip(facts, hits, strict=True)
            ]
            recall[style, k] = sum(found) / len(found)
    assert 0.75 < recall["relation and name", 1] < 0.98
    assert recall["relation and name", 2] > 0.95
    assert 0.5 < recall["name", 1] < 0.85
    assert 0.9 < recall["name", 2] < 1.0


def test_several_hops_cannot_be_answered_with_the_question_as_the_only_query() -> None:
    retriever = BM25Retriever.from_documents(WORLD.documents)
    chains = [q for q in QUESTIONS if q.metadata["type"] in ("2-hop", "3-hop")]
    hits = retriever.search([q.text for q in chains], 3)
    complete = [
        set(q.metadata["gold_documents"]) <= {hit.document.id for hit in row}
        for q, row in zip(chains, hits, strict=True)
    ]
    assert sum(complete) / len(complete) < 0.1


def test_the_world_on_disk_is_a_corpus_and_two_data_sets(tmp_path: Path) -> None:
    write_world(WORLD, tmp_path)
    corpus = read_corpus(tmp_path / "corpus.jsonl")
    assert [(d.id, d.title, d.text) for d in corpus] == [(d.id, d.title, d.text) for d in WORLD.documents]
    rows = (tmp_path / "questions.test.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(rows[0]).keys() == {"id", "question", "golden_answers", "metadata"}
    loaded = load_questions(tmp_path / "questions.test.jsonl")
    assert [(q.id, q.text, q.golden_answers) for q in loaded] == [
        (q.id, q.text, q.golden_answers) for q in make_questions(WORLD, "test")
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LabWorld.make(1, size=10), "size must be >= 40"),
        (lambda: make_questions(WORLD, "dev"), 'split must be "train" or "test"'),
        (lambda: make_questions(LabWorld.make(1, size=40), "test", count=5000), "count must be at most"),
    ],
)
def test_impossible_worlds_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_documents_and_questions_are_the_shared_vocabulary() -> None:
    assert all(isinstance(document, Document) for document in WORLD.documents)
    assert all(isinstance(question, Question) for question in QUESTIONS)
