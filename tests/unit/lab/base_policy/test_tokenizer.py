"""The tokenizer, and that demonstrations are laid out exactly as the real rollout renders episodes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from calibadv.dialogue.observation import render_observation
from calibadv.dialogue.parse import read_turn
from calibadv.dialogue.prompt import QUESTION_ONLY, render_prompt
from calibadv.lab import LabWorld, load_policy, names
from calibadv.lab.base_policy import phrases
from calibadv.lab.base_policy.demonstrations import (
    Agent,
    Demonstration,
    Habits,
    observation_tokens,
    reading_drill,
    split_words,
)
from calibadv.lab.base_policy.presets import CARELESS, CLEAN
from calibadv.lab.base_policy.tokenizer import MAX_DOCUMENTS, SCAFFOLDING, SPECIAL, TAGS, make_tokenizer, vocabulary
from calibadv.lab.questions import Puzzle, draw_puzzle
from calibadv.retrieval.bm25 import BM25Retriever
from calibadv.trajectory import ActionKind, Document

transformers = pytest.importorskip("transformers")
WORLD = LabWorld.make(8, size=120)
RETRIEVER = BM25Retriever.from_documents(WORLD.documents)


def search(query: str) -> list[Document]:
    return [hit.document for hit in RETRIEVER.search([query], 2)[0]]


def demonstrations(
    habits: Habits, *, count: int, type: str | None = None, seed: int = 0
) -> Iterator[tuple[Puzzle, Demonstration]]:
    rng = random.Random(seed)
    agent = Agent(WORLD, search=search, habits=habits, rng=rng, max_searches=4)
    while count:
        puzzle = draw_puzzle(WORLD, entities=list(WORLD.entities), rng=rng, type=type)
        if puzzle is not None:
            count -= 1
            yield puzzle, agent.demonstrate(puzzle)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def tokens_of(tokenizer: Any, text: str) -> Any:
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def written(demonstration: Demonstration) -> list[str]:
    """The turns, as text."""
    turns: list[str] = []
    turn: list[str] = []
    for token, weight in zip(demonstration.tokens, demonstration.weights, strict=True):
        if weight:
            turn.append(token)
        elif turn:
            turns, turn = [*turns, " ".join(turn)], []
    return [*turns, " ".join(turn)]


def test_the_vocabulary_is_small_and_has_no_token_twice() -> None:
    assert len(vocabulary()) <= 2000
    assert vocabulary()[: len(SPECIAL)] == SPECIAL
    pools = [*names.FIRST_WORDS, *names.LAST_WORDS, *names.COUNTRIES, *names.RIVERS, *names.YEARS]
    assert len(set(pools)) == len(pools)
    assert not {word.lower() for word in pools} & set(phrases.vocabulary())


def test_the_packaged_tokenizer_is_the_one_that_the_code_makes() -> None:
    packaged = transformers.AutoTokenizer.from_pretrained(load_policy())
    assert packaged.get_vocab() == {token: number for number, token in enumerate(vocabulary())}
    assert (packaged.pad_token, packaged.eos_token, packaged.unk_token) == SPECIAL


def test_tags_and_scaffolding_are_single_tokens(tokenizer: Any) -> None:
    for token in (*TAGS, *SCAFFOLDING):
        assert tokens_of(tokenizer, token) == [token]


def test_observations_are_rendered_into_the_tokens_of_the_demonstrations(tokenizer: Any) -> None:
    documents = WORLD.documents[:3] + WORLD.documents[-2:]
    assert len(documents) == MAX_DOCUMENTS
    for shown in (documents[:1], documents[:2], documents):
        text, _ = render_observation(shown, think_prefill=True)
        assert tokens_of(tokenizer, text) == observation_tokens(shown)


def test_prompts_are_rendered_into_the_tokens_of_the_demonstrations(tokenizer: Any) -> None:
    for puzzle, demonstration in demonstrations(CLEAN, count=40):
        prompt = tokens_of(tokenizer, render_prompt(puzzle.text, template=QUESTION_ONLY))
        assert demonstration.tokens[: len(prompt)] == prompt
        assert not any(demonstration.weights[: len(prompt)])
        assert demonstration.weights[len(prompt)] == 1.0


def test_decoding_keeps_the_words_and_encoding_again_gives_the_same_tokens(tokenizer: Any) -> None:
    for _, demonstration in demonstrations(CARELESS, count=30):
        ids = tokenizer.convert_tokens_to_ids(demonstration.tokens)
        assert tokenizer.unk_token_id not in ids
        text = tokenizer.decode(ids)
        assert tokenizer.encode(text, add_special_tokens=False) == ids
    title = WORLD.documents[0].title
    assert title in tokenizer.decode(tokenizer.encode(f"director {title}?", add_special_tokens=False))


def test_unknown_words_become_unk(tokenizer: Any) -> None:
    assert tokens_of(tokenizer, "what is Paris?") == ["what", "is", "<unk>", "?"]


def test_clean_demonstrations_answer_right_when_the_articles_are_found() -> None:
    right = 0
    for puzzle, demonstration in demonstrations(CLEAN, count=100):
        *searches, last = [read_turn(turn, think_open=True) for turn in written(demonstration)]
        assert searches
        assert all(turn.action.kind is ActionKind.SEARCH and turn.thinking for turn in [*searches])
        assert last.action.kind is ActionKind.ANSWER
        assert last.thinking
        right += last.action.content == puzzle.answer
    assert right >= 97


def test_loss_falls_on_the_model_s_words_only() -> None:
    for _, demonstration in demonstrations(CARELESS, count=60):
        inside = False
        for token, weight in zip(demonstration.tokens, demonstration.weights, strict=True):
            inside = inside or token == "<information>"
            assert not (inside and weight)
            inside = inside and token != "</information>"


@pytest.mark.parametrize(
    ("slip", "type"),
    [("early_stop", "2-hop"), ("wrong_relation", "1-hop"), ("wrong_document", "1-hop"), ("skipped_search", "1-hop")],
)
def test_each_slip_makes_wrong_answers(slip: str, type: str) -> None:
    settings: dict[str, Any] = {slip: 1.0}
    pairs = list(demonstrations(Habits(**settings), count=60, type=type))
    wrong = [puzzle.answer not in written(demonstration)[-1] for puzzle, demonstration in pairs]
    assert sum(wrong) > 40


def test_a_repeating_agent_puts_the_same_query_twice() -> None:
    for _, demonstration in demonstrations(Habits(repeat=1.0), count=10, type="1-hop"):
        queries = [read_turn(turn, think_open=True).action.content for turn in written(demonstration)]
        assert queries[0] == queries[1]


def test_rambling_comes_with_longer_thinking_and_more_mistakes() -> None:
    def measure(habits: Habits) -> tuple[float, int]:
        pairs = list(demonstrations(habits, count=80, type="1-hop"))
        turns = [written(demonstration)[-1] for _, demonstration in pairs]
        wrong = sum(puzzle.answer not in turn for (puzzle, _), turn in zip(pairs, turns, strict=True))
        return sum(len(turn.split()) for turn in turns) / len(turns), wrong

    (calm_words, calm_wrong), (long_words, long_wrong) = measure(CLEAN), measure(Habits(rambling=1.0))
    assert long_words > 2 * calm_words
    assert long_wrong > calm_wrong + 30


@pytest.mark.parametrize("easy", [True, False])
def test_drills_ask_for_what_their_documents_state(easy: bool) -> None:
    rng = random.Random(3)
    for _ in range(100):
        drill = reading_drill(rng, easy=easy)
        text = " ".join(drill.tokens)
        values = [w for w in drill.weights if w == 1.0]
        assert values
        shown = text.split("</information>")[0].split()
        asked = [t for t, w in zip(drill.tokens, drill.weights, strict=True) if w]
        if "earlier" not in asked:
            assert set(asked) <= set(shown)


def test_split_words_separates_punctuation() -> None:
    assert split_words("which had it, Ora Vano or Ska?") == ("which", "had", "it", ",", "Ora", "Vano", "or", "Ska", "?")


def test_a_puzzle_s_key_ignores_its_wording() -> None:
    one = Puzzle(text="a", type="1-hop", steps=(("river", 3),), answer="x")
    two = Puzzle(text="b", type="1-hop", steps=(("river", 3),), answer="x")
    assert one.key == two.key
