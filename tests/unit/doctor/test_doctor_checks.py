"""Every check of the doctor: fine, doubtful and in the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from calibadv.config import RunConfig
from calibadv.doctor import Level, worst
from calibadv.doctor.check import Check, guarded
from calibadv.doctor.check_context import check_context
from calibadv.doctor.check_data import check_data
from calibadv.doctor.check_disk import check_disk
from calibadv.doctor.check_memory import check_memory
from calibadv.doctor.check_probe import evidence_rate, verdict
from calibadv.doctor.check_retriever import check_retriever
from calibadv.doctor.check_tokenizer import check_chat, check_tags
from calibadv.doctor.memory import Lengths
from calibadv.errors import ConfigError, RetrieverUnavailable
from calibadv.models.sizes import ModelShape
from calibadv.retrieval import Hit
from calibadv.rollout import CharTokenizer, RolloutConfig
from calibadv.trajectory import Action, ActionKind, Document, Question, StopReason, Trajectory, Turn

QUESTIONS = [Question(id=f"q{n}", text=f"who wrote book {n}?", golden_answers=(f"author {n}",)) for n in range(8)]


def run_config(tmp_path: Path, **sections: dict[str, Any]) -> RunConfig:
    for split in ("train", "test"):
        rows = [{"id": f"{split}{n}", "question": f"{split} question {n}?", "golden_answers": ["a"]} for n in range(6)]
        path = tmp_path / f"geo.{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    base: dict[str, dict[str, Any]] = {
        "model": {"path": "org/model", "device": "cpu"},
        "retrieval": {"corpus": str(tmp_path / "corpus.jsonl")},
        "data": {"train": [str(tmp_path / "geo.train.jsonl")], "test": [str(tmp_path / "geo.test.jsonl")]},
        "training": {"questions_per_batch": 4, "steps": 4, "save_every": 2, "output": str(tmp_path / "run")},
    }
    return RunConfig.from_mapping({name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


def levels(checks: Sequence[Check]) -> dict[str, Level]:
    return {check.name: check.level for check in checks}


class Lowercase(CharTokenizer):
    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("<", "("))


class Spaced(CharTokenizer):
    def encode(self, text: str) -> list[int]:
        return super().encode(" " + text)


class Unread(CharTokenizer):
    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("wrote", "<unk>"))


class Templated(CharTokenizer):
    def __init__(self, template: Any) -> None:
        self.template = template

    def chat(self, messages: Any) -> Any:
        return self.template(messages)


def plain(messages: Any) -> Any:
    return "".join(f"[{m['role']}]{m['content']}[end]" for m in messages) + "[assistant]"


def test_a_tokenizer_that_splits_tags_almost_into_characters_is_a_warning() -> None:
    check = check_tags(CharTokenizer())
    assert (check.level, check.facts["tokens"]["<think>"]) == (Level.WARNING, 7)
    assert "almost into characters" in check.summary


def test_a_tokenizer_that_loses_tags_is_refused_as_training_refuses_it() -> None:
    with pytest.raises(ConfigError, match="does not keep the tag <think>"):
        check_tags(Lowercase())


def test_spaces_may_change_because_token_ids_are_what_is_kept() -> None:
    assert "questions change" not in check_tags(Spaced(), questions=QUESTIONS).summary


def test_a_tokenizer_that_does_not_know_the_words_of_the_questions_is_a_warning() -> None:
    check = check_tags(Unread(), questions=QUESTIONS)
    assert check.level is Level.WARNING
    assert "the words of 8 of 8 questions change, such as 'who wrote book 0?'" in check.summary


def test_chat_templates_are_judged_by_what_they_keep() -> None:
    rollout = RolloutConfig()
    assert check_chat(CharTokenizer(), rollout=rollout).summary == "none: prompts are plain text"
    assert check_chat(Templated(plain), rollout=rollout).level is Level.OK

    def forgetful(messages: Any) -> Any:
        return plain([m | {"content": m["content"].split("</think>")[-1]} for m in messages])

    kept = check_chat(Templated(forgetful), rollout=rollout)
    assert kept.level is Level.WARNING
    assert "not prefix-preserving" in kept.summary
    lossy = check_chat(Templated(lambda messages: "[user]" + messages[0]["content"].lower()), rollout=rollout)
    assert lossy.level is Level.BLOCKER
    unthinking = check_chat(Templated(lambda m: plain(m) + "<think>\n\n</think>\n\n"), rollout=rollout)
    assert unthinking.level is Level.WARNING
    assert "rollout.chat_template_kwargs = {enable_thinking = true}" in unthinking.summary
    with pytest.raises(ConfigError, match="think_prefill must be true"):
        check_chat(Templated(lambda m: plain(m) + "<think>"), rollout=RolloutConfig(think_prefill=False))


def test_questions_are_counted_and_kept_apart(tmp_path: Path) -> None:
    checks = check_data(run_config(tmp_path))
    assert levels(checks) == {"data.train": Level.OK, "data.test": Level.OK}
    assert checks[0].facts == {"questions": 6, "by_dataset": {"geo": 6}}
    same = str(tmp_path / "geo.train.jsonl")
    shared = check_data(run_config(tmp_path, data={"test": [same]}))[1]
    assert (shared.level, shared.facts["also_in_train"]) == (Level.WARNING, 6)
    few = check_data(run_config(tmp_path, training={"questions_per_batch": 100}))[0]
    assert few.level is Level.BLOCKER
    none = check_data(run_config(tmp_path, data={"test": []}, training={"eval_every": 2}))[1]
    assert none.level is Level.BLOCKER


class Library:
    """Finds a document by the number in the query, or by its own words."""

    def __init__(self, *, broken: bool = False, text: str = "by author") -> None:
        self.broken, self.text = broken, text

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        rows = []
        for query in queries:
            number = "".join(c for c in query if c.isdigit())[:1]
            number = str((int(number) + 1) % 8) if self.broken else number
            rows.append([Hit(Document(id=f"d{number}", title=f"Book {number}", text=f"{self.text} {number}"), 1.0)] * k)
        return rows

    def manifest(self) -> dict[str, Any]:
        return {"method": "test", "stop_words": ["a"]}


def test_a_retriever_that_answers_and_finds_its_own_documents_is_fine() -> None:
    checks = check_retriever(Library(), questions=QUESTIONS, top_k=2)
    assert levels(checks) == {"retriever": Level.OK, "index": Level.OK}
    assert checks[0].facts["manifest"] == {"method": "test"}


def test_an_index_of_another_encoder_does_not_find_its_own_documents() -> None:
    checks = check_retriever(Library(broken=True), questions=QUESTIONS, top_k=2)
    assert levels(checks) == {"retriever": Level.OK, "index": Level.BLOCKER}
    assert "does not seem to belong to the encoder" in checks[1].remedy


def test_a_retriever_that_is_away_is_a_blocker_with_its_message() -> None:
    def away() -> NoReturn:
        raise RetrieverUnavailable("no answer from the retriever")

    (check,) = guarded("retriever", away, remedy="start it")
    assert (check.level, check.remedy) == (Level.BLOCKER, "start it")
    assert "no answer from the retriever" in check.summary


SMALL = ModelShape(
    parameters=10**6, trained_parameters=10**6, layers=2, hidden=64, feed_forward=128, query_size=64,
    key_value_size=32, vocabulary=1000, max_context=2048,
)  # fmt: skip


def huge(trained: Any) -> Any:
    return ModelShape(
        parameters=10**13, trained_parameters=trained, layers=2, hidden=64, feed_forward=128, query_size=64,
        key_value_size=32, vocabulary=1000,
    )  # fmt: skip


def test_memory_and_disk_say_what_does_not_fit_and_what_helps(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    assert check_memory(config, SMALL, prompt_tokens=100).level is not Level.BLOCKER
    too_large = check_memory(config, huge(10**13), prompt_tokens=100)
    assert too_large.level is Level.BLOCKER
    assert "lora.rank" in too_large.remedy
    measured = check_memory(config, SMALL, prompt_tokens=100, measured=Lengths(prompt=1, turn=1, observation=1))
    assert "measured lengths" in measured.summary
    assert check_disk(config, SMALL).facts["kept"] == 2
    full = check_disk(config, huge(10**13))
    assert full.level is Level.BLOCKER
    assert "keep_checkpoints" in full.remedy


def test_disk_counts_what_is_kept_and_the_best(tmp_path: Path) -> None:
    many = run_config(tmp_path, training={"steps": 40, "save_every": 2, "mini_batches": 2})
    assert check_disk(many, SMALL).facts["kept"] == 20
    few = run_config(tmp_path, training={"steps": 40, "save_every": 2, "keep_checkpoints": 2, "eval_every": 2})
    facts = check_disk(few, SMALL).facts
    assert facts["kept"] == 3  # the new one is written before an old one goes
    assert facts["needed"] == 3 * 12 * 10**6 + 2 * 4 * 10**6


def test_an_episode_must_fit_into_the_context(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    assert check_context(config, max_context=None, prompt_tokens=100) == []
    assert [c.level for c in check_context(config, max_context=100_000, prompt_tokens=100)] == [Level.OK]
    assert [c.level for c in check_context(config, max_context=4096, prompt_tokens=100)] == [Level.WARNING]
    assert [c.level for c in check_context(config, max_context=512, prompt_tokens=100)] == [Level.BLOCKER]


FACTS = {
    "questions": 20, "rollouts": 100, "reward": 0.3, "reward_variance": 0.1, "groups_with_signal": 0.8,
    "format_valid": 0.9, "answered": 0.9, "searches": 1.5, "turns": 2.5, "tokens": 120.0, "retrieval_hit_rate": 0.6,
}  # fmt: skip


def test_a_policy_with_signal_format_and_evidence_may_start() -> None:
    assert levels(verdict(FACTS)) == {"signal": Level.OK, "format": Level.OK, "evidence": Level.OK}


def test_groups_without_signal_block_and_name_the_cold_start() -> None:
    signal, form, evidence = verdict(
        FACTS | {"groups_with_signal": 0.05, "format_valid": 0.01, "reward": 0.0, "retrieval_hit_rate": None}
    )
    assert signal.level is Level.BLOCKER
    assert signal.summary.startswith("95% of groups carry no signal")
    assert signal.remedy == "start from an SFT checkpoint (calibadv sft)"
    assert form.level is Level.WARNING
    assert "no rollout searched" in evidence.summary
    easy = verdict(FACTS | {"groups_with_signal": 0.3, "reward": 0.9})[0]
    assert (easy.level, "too easy" in easy.remedy) == (Level.WARNING, True)


def played(answer: Any, text: Any, golden: Any) -> Any:
    search = Turn(
        text="a</think><search>q</search>",
        action=Action(ActionKind.SEARCH, "q"),
        documents=(Document(id="d", title="T", text=text),),
        observation="<information>x</information>",
    )
    last = Turn(text="b", action=Action(ActionKind.ANSWER, answer))
    question = Question(id="q", text="?", golden_answers=(golden,))
    return Trajectory(question=question, prompt="", turns=(search, last), stop_reason=StopReason.ANSWER)


def test_evidence_is_a_golden_answer_in_what_was_found() -> None:
    assert evidence_rate([played("x", "born in Oslo, 1923", "Oslo"), played("x", "born in Osloborg", "Oslo")]) == 0.5
    assert evidence_rate([played("yes", "nothing", "yes")]) is None


def test_the_gravest_check_counts() -> None:
    checks = [Check(name=level.value, level=level, summary="") for level in (Level.WARNING, Level.BLOCKER, Level.OK)]
    assert worst(checks) is Level.BLOCKER
    assert worst([]) is Level.OK
    assert json.loads(json.dumps(checks[1].as_row()))["level"] == "blocker"
