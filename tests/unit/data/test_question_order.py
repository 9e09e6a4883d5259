"""Orders of questions from outside, and files mixed by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.config import RunConfig
from calibadv.data.config import DataConfig, load_files, load_split
from calibadv.data.question_order import GivenOrder, Order, WeightedOrder, find_order
from calibadv.data.run_files import read_metrics
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError
from calibadv.io.files import read_json
from calibadv.runs.train import train
from calibadv.trajectory import Question

QUESTIONS = [Question(id=str(n), text=f"{n}?", golden_answers=("a",)) for n in range(6)]


def given_order(order: Order, **shape: Any) -> GivenOrder:
    defaults: dict[str, Any] = {"num_batches": 3, "questions_per_batch": 2, "seed": 0}
    return GivenOrder(order=order, questions=QUESTIONS, **defaults | shape)


def backwards(questions: Sequence[Question], *, questions_per_batch: int, seed: int) -> Iterator[int]:
    return (index % len(questions) for index in count(len(questions) - 1, -1))


def test_endless_order_is_used_as_far_as_the_run_goes_and_again_from_the_beginning() -> None:
    order = given_order(backwards, num_batches=4)
    assert list(order) == [5, 4, 3, 2, 1, 0, 5, 4] == list(order)
    assert len(order) == 8


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 1, 2], r"training.order '.*' ended after 3 indices, but the run asks 6 questions: repeat them"),
        ([0, 6], r"gave 6, which is no index of the 6 questions"),
        ([0, -1], r"gave -1, which is no index"),
        ([0, True], r"gave True, which is no index"),
        (["0", 1], r"gave '0', which is no index"),
        ([0, 1, 3, 3], r"gave the index 3 twice in batch 2"),
        (7, r"training.order '.*' raised TypeError: 'int' object is not iterable"),
    ],
)
def test_order_that_cannot_be_followed_is_told_in_one_line(indices: Any, message: str) -> None:
    def order(questions: Sequence[Question], *, questions_per_batch: int, seed: int) -> Any:
        return indices

    with pytest.raises(ConfigError, match=message) as caught:
        list(given_order(order))
    assert "\n" not in str(caught.value)


def test_what_an_order_raises_is_told_with_its_place() -> None:
    def broken(questions: Sequence[Question], *, questions_per_batch: int, seed: int) -> Iterator[int]:
        yield 0
        raise KeyError("difficulty")

    with pytest.raises(ConfigError, match=r"training.order .* raised KeyError: 'difficulty' \(test_question_order"):
        given_order(broken).check_first_batch()


def test_order_is_found_by_name() -> None:
    assert find_order("shuffled") is None
    assert find_order(backwards) is backwards
    with pytest.raises(ConfigError, match=r'training.order must be one of shuffled, "package.module:name", got .easy'):
        find_order("easy")
    with pytest.raises(ConfigError, match=r"training.order must be callable as order\(questions"):
        find_order(lambda questions: [])  # type: ignore[arg-type]  # it takes too little


@given(sizes=st.lists(st.integers(12, 40), min_size=1, max_size=4), seed=st.integers(0, 9), data=st.data())
def test_every_batch_holds_the_files_in_the_proportion_of_their_weights(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(sizes), max_size=len(sizes)))
    order = WeightedOrder(sizes=tuple(sizes), weights=tuple(map(float, weights)))
    indices = order([], questions_per_batch=10, seed=seed)
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    for _ in range(8):
        batch = list(islice(indices, 10))
        assert len(set(batch)) == 10, "no question twice in a batch"
        held = Counter(max(n for n, start in enumerate(starts) if start <= index) for index in batch)
        for n, weight in enumerate(weights):
            assert abs(held[n] - 10 * weight / sum(weights)) < 2


def test_mixture_depends_on_the_seed_alone() -> None:
    order = WeightedOrder(sizes=(10, 30), weights=(1.0, 2.0))
    one, again, other = (list(islice(order([], questions_per_batch=5, seed=s), 50)) for s in (1, 1, 2))
    assert one == again != other


def test_file_that_is_too_small_for_its_weight_is_named() -> None:
    order = WeightedOrder(sizes=(3, 30), weights=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"file 1 of data.train has 3 questions, .* a batch of 10 asks up to 6"):
        order([], questions_per_batch=10, seed=0)


def test_weights_must_fit_the_files() -> None:
    with pytest.raises(ConfigError, match=r"one weight for each of the 1 files of data.train, got 2"):
        DataConfig(train=(Path("a"),), train_weights=(1.0, 2.0))
    sections = {"model": {"path": "."}, "retrieval": {"corpus": "c"}}
    both = {"data": {"train": ["a"], "train_weights": [1.0]}, "training": {"order": "mine:order"}}
    with pytest.raises(ConfigError, match=r"data.train_weights would have no effect: training.order"):
        RunConfig.from_mapping(sections | both)


def test_questions_of_files_stay_apart_with_a_limit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines = [f'{{"id": "{name}{n}", "question": "{n}?", "golden_answers": ["x"]}}' for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = DataConfig(train=(tmp_path / "a.jsonl", tmp_path / "b.jsonl"))
    files = load_files(config, "train", limit=6)
    assert [{q.id[0] for q in questions} for questions in files] == [{"a"}, {"b"}]
    assert [q for questions in files for q in questions] == load_split(config, "train", limit=6)


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory, lab_run: Callable[..., dict[str, Any]]) -> Any:
    settings = {
        "steps": 2, "questions_per_batch": 2, "num_rollouts": 2, "mini_batches": 1, "save_every": 1,
        "max_batches_without_signal": 9,
    }  # fmt: skip
    sections = lab_run(tmp_path_factory.mktemp("world"), training=settings)

    def make(output: Path, *, data: dict[str, Any] | None = None, **training: Any) -> RunConfig:
        changed = {"training": sections["training"] | {"output": str(output)} | training}
        return RunConfig.from_mapping(sections | changed | {"data": sections["data"] | (data or {})})

    return make


def asked(run: Path) -> list[str]:
    files = sorted((run / "trajectories").iterdir())
    return [r.trajectory.question.id for file in files for r in list(read_trajectories(file))[::2]]


def test_run_follows_an_order_by_import_path_and_records_it(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curriculum.py").write_text(
        "def order(questions, *, questions_per_batch, seed):\n    return range(len(questions))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(tmp_path / "run", order="curriculum:order")
    questions = load_split(config.data, "train")
    assert asked(train(config)) == [question.id for question in questions[:4]]
    recorded = read_json(tmp_path / "run" / "run.json")["own"]["training.order"]
    assert recorded["object"] == "curriculum:order"
    assert recorded["file"] == str(tmp_path / "curriculum.py")
    assert len(recorded["sha256"]) == 64


def test_resumed_mixture_asks_what_the_uninterrupted_one_asks(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (file,) = make_config(tmp_path / "none").data.train
    lines = file.read_text(encoding="utf-8").splitlines()
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    small.write_text("\n".join(lines[:4]), encoding="utf-8")
    large.write_text("\n".join(lines[4:]), encoding="utf-8")
    data = {"train": [str(small), str(large)], "train_weights": [1.0, 1.0]}
    whole = train(make_config(tmp_path / "whole", data=data, steps=4))
    train(make_config(tmp_path / "cut", data=data, steps=2))
    cut = train(make_config(tmp_path / "cut", data=data, steps=4), resume=True)
    assert asked(cut) == asked(whole)
    ids = {question.id for question in load_split(DataConfig(train=(small,)), "train")}
    assert [sum(q in ids for q in asked(whole)[n : n + 2]) for n in range(0, 8, 2)] == [1, 1, 1, 1]
    assert [line["reward"] for line in read_metrics(cut / "metrics.jsonl")] == [
        line["reward"] for line in read_metrics(whole / "metrics.jsonl")
    ]
