"""RunConfig: composition, round trip, checks across sections, and the folder that belongs to one run."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibadv.advantage import CalibrationConfig
from calibadv.config import RunConfig
from calibadv.config.run_folder import claim_run_folder
from calibadv.data.config import DataConfig, load_split
from calibadv.errors import ConfigError, DataError

MINIMAL = """
[model]
path = "org/model"
[retrieval]
corpus = "corpus.jsonl"
"""


def read(tmp_path: Path, text: str = "", *overrides: str) -> RunConfig:
    path = tmp_path / "my-run.toml"
    path.write_text(MINIMAL + text, "utf-8")
    return RunConfig.read(path, overrides=overrides)


def write_questions(path: Path, *ids: str) -> Path:
    rows = [{"id": i, "question": f"Who is {i}?", "golden_answers": ["x"]} for i in ids]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_minimal_config_has_the_papers_settings(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert config.training.num_rollouts == 5
    assert config.training.learning_rate == 5e-7
    assert config.rollout.max_searches == 4
    assert config.active_calibration is config.calibration
    assert config.retrieval.corpus == tmp_path / "corpus.jsonl"
    assert config.training.output == Path.cwd() / "runs" / "my-run"


def test_the_effective_config_reads_back_unchanged(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        '[data]\ntrain = ["a \\"b\\".jsonl"]\n[retrieval.bm25]\nstop_words = "none"\n'
        '[training]\nbetas = [0.9, 0.95]\nreport_to = ["x"]',
        "training.learning_rate=3e-05",
    )
    path = tmp_path / "elsewhere" / "config.toml"
    path.parent.mkdir()
    path.write_text(config.to_toml(), "utf-8")
    assert RunConfig.read(path) == config
    assert RunConfig.from_mapping(json.loads(json.dumps(config.effective()))) == config


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_survives_the_round_trip(text: Any) -> None:
    config = RunConfig.from_mapping({"model": {"path": "a/b", "gguf_file": text}, "retrieval": {"corpus": "c"}})
    assert tomllib.loads(config.to_toml())["model"].get("gguf_file", "none") == text


def test_documents_come_from_one_place(tmp_path: Path) -> None:
    config = read(tmp_path, "", "retrieval.corpus=none", 'retrieval.url=["http://a:8000", "http://b:8000"]')
    assert config.retrieval.urls == ("http://a:8000", "http://b:8000")
    config = RunConfig.from_mapping(tomllib.loads(config.to_toml()), overrides=["retrieval.url=http://a:8000"])
    assert config.retrieval.urls == ("http://a:8000",)
    assert read(tmp_path, 'index = "wiki/bm25"', "retrieval.corpus=none").retrieval.index == tmp_path / "wiki" / "bm25"
    for overrides in (["retrieval.corpus=none"], ["retrieval.index=wiki"], ["retrieval.url=http://a"]):
        with pytest.raises(ConfigError, match=r"exactly one of retrieval\.corpus"):
            read(tmp_path, "", *overrides)


def test_what_is_required_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"model.path is missing"):
        RunConfig.read(path)


def test_data_root_moves_data_and_corpus_but_nothing_else(tmp_path: Path) -> None:
    text = '[data]\nroot = "big"\ntrain = ["a.jsonl", "/abs.jsonl"]\ntest = ["b.jsonl"]\n[training]\noutput = "out"'
    config = read(tmp_path, text)
    assert config.data.train == (tmp_path / "big" / "a.jsonl", Path("/abs.jsonl"))
    assert config.data.test == (tmp_path / "big" / "b.jsonl",)
    assert config.retrieval.corpus == tmp_path / "big" / "corpus.jsonl"
    assert config.training.output == tmp_path / "out"
    assert read(tmp_path, text, "data.root=/x").data.train[0] == Path("/x/a.jsonl")


def test_data_root_from_an_unset_variable_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CALIBADV_NO_SUCH", raising=False)
    text = '[data]\nroot = "${CALIBADV_NO_SUCH}"\ntrain = ["a.jsonl"]'
    with pytest.raises(ConfigError, match=r"^data.root = .*CALIBADV_NO_SUCH, which is not set: .* --set data.root="):
        read(tmp_path, text)
    assert read(tmp_path, text, "data.root=/x").data.root == Path("/x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("calibration.rebalance_coef=0", r"calibration.rebalance_coef must be between 0.001 and 1000.0, got 0"),
        ("calibration.rebalance_coef=-1.0", r"calibration.rebalance_coef must be between 0.001 and 1000.0, got -1.0"),
        ("training.seed=-1", r"training.seed must be between 0 and 4294967295, got -1"),
        ("training.seed=99999999999999", r"training.seed must be between 0 and 4294967295, got 99999999999999"),
        ("sft.seed=-1", r"sft.seed must be between 0 and 4294967295, got -1"),
        ("calibration.rebalance_coef=nan", r"calibration.rebalance_coef must be a finite number, got nan"),
        ("calibration.rebalance_coef=one", r'calibration.rebalance_coef must be a number, got "one"'),
        ("calibration.soft_penalty=hard", r"calibration.soft_penalty must be one of"),
        ("calibration.silver_treshold=0.5", r"did you mean calibration.silver_threshold\?"),
        ("algorithm.name=ppo", r'algorithm.name must be one of "calibadv", "grpo", got "ppo"'),
        ("training.num_rollouts=1", r"training.num_rollouts must be >= 2, got 1; advantages compare"),
        ("training.steps=0", r"training.steps must be >= 1, got 0"),
        ("training.steps=411", r"training.steps must be a multiple of mini_batches \* epochs \(2 optimizer steps"),
        ("training.save_every=3", r"training.save_every must be a multiple"),
        ("training.mini_batches=2561", r"mini_batches is 2561, but a batch has 2560 rollouts"),
        ("training.learning_rate=0.0", r"training.learning_rate must be > 0, got 0.0"),
        ("training.learning_rate=inf", r"training.learning_rate must be a finite number, got inf"),
        ("training.clip=-0.2", r"training.clip must be > 0, got -0.2"),
        ("training.betas=[0.9, 1.0]", r"training.betas must be in \[0, 1\), got \[0.9, 1.0\]"),
        ("training.threads=0", r"training.threads must be >= 1, got 0"),
        ("training.loss_type=ppo", r"training.loss_type must be one of"),
        ("rollout.max_searches=0", r"rollout.max_searches must be >= 1 with the soft penalty on, got 0"),
        ("rollout.top_k=0", r"rollout.top_k must be >= 1, got 0"),
        ("rollout.prompt=poem", r"rollout.prompt must be one of search, question"),
        ("rollout.prompt=poem", r"got 'poem'"),
        ("retrieval.method=faiss", r'retrieval.method must be one of "bm25", "dense", "hybrid", got "faiss"'),
        ("reward.score=bleu", r'reward.score must be one of "f1", "em", "cem", got "bleu"'),
        ("data.limit=0", r"data.limit must be >= 1, got 0"),
        ("evaluation.samples=0", r"evaluation.samples must be >= 1, got 0"),
        ("evaluation.temperature=-1", r"evaluation.temperature must be >= 0"),
        ("model.dtype=int4", r'model.dtype must be one of "float32", "bfloat16", "float16", got "int4"'),
        ("model.path=", r"model.path must be"),
        ("steps=3", r"^steps is not a setting; did you mean training.steps\?$"),
        ("modle.path=x", r"modle is not a setting; did you mean model\?"),
    ],
)
def test_impossible_settings_are_refused_by_name(tmp_path: Path, override: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, "", override)


def test_grpo_needs_no_searches_and_ignores_calibration(tmp_path: Path) -> None:
    config = read(tmp_path, "", "algorithm.name=grpo", "rollout.max_searches=0")
    assert config.active_calibration == CalibrationConfig.plain()


def test_training_needs_questions_and_chance(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.train is empty"):
        read(tmp_path).check_trainable()
    with pytest.raises(ConfigError, match=r"rollout.temperature must be > 0 for training"):
        read(tmp_path, '[data]\ntrain = ["a"]', "rollout.temperature=0").check_trainable()
    read(tmp_path, '[data]\ntrain = ["a"]').check_trainable()


def test_a_split_is_all_files_in_order_and_a_limit_draws_with_the_seed(tmp_path: Path) -> None:
    one = write_questions(tmp_path / "one.train.jsonl", *"abcde")
    two = write_questions(tmp_path / "two.train.jsonl", *"abcde")
    data = DataConfig(train=(one, two))
    questions = load_split(data, "train")
    assert [(q.dataset, q.id) for q in questions[::5]] == [("one", "a"), ("two", "a")]
    drawn = load_split(data, "train", limit=4)
    assert drawn == load_split(data, "train", limit=4)
    assert [q for q in questions if q in drawn] == drawn
    assert len(drawn) == 4
    assert any(load_split(replace(data, seed=seed), "train", limit=4) != drawn for seed in range(1, 4))
    assert load_split(data, "train", limit=99) == questions


def test_bad_question_files_are_refused(tmp_path: Path) -> None:
    good = write_questions(tmp_path / "one.train.jsonl", "a")
    with pytest.raises(ConfigError, match=r"data.test is empty; name question files"):
        load_split(DataConfig(), "test")
    with pytest.raises(ConfigError, match=r"data.train names a file twice"):
        load_split(DataConfig(train=(good, good)), "train")
    with pytest.raises(DataError, match="no such file"):
        load_split(DataConfig(train=(tmp_path / "absent.jsonl",)), "train")
    for row, message in (
        ({"id": "1", "question": " ", "golden_answers": ["x"]}, "question"),
        ({"id": "1", "question": "Who?", "golden_answers": []}, "golden_answers"),
        ({"id": "1", "question": "Who?"}, "golden_answers"),
    ):
        bad = tmp_path / "bad.jsonl"
        bad.write_text(json.dumps(row))
        with pytest.raises(DataError, match=rf"bad.jsonl:1: .*{message}"):
            load_split(DataConfig(train=(bad,)), "train")
    folder = tmp_path / "sub"
    folder.mkdir()
    again = write_questions(folder / "one.train.jsonl", "a")
    with pytest.raises(DataError, match="same id"):
        load_split(DataConfig(train=(good, again)), "train")


def test_a_new_run_takes_a_new_folder_and_saves_its_config(tmp_path: Path) -> None:
    config = read(tmp_path, "", f"training.output={tmp_path / 'out'}")
    folder = claim_run_folder(config, resume=False)
    assert RunConfig.read(folder / "config.toml") == config


def test_the_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    config = read(tmp_path, "", f"training.output={tmp_path / 'out'}")
    claim_run_folder(config, resume=False)
    with pytest.raises(
        ConfigError, match=r"training.output .* is the folder of another run; .* continue that run \(--resume\)"
    ):
        claim_run_folder(config, resume=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="is not an empty folder"):
        claim_run_folder(read(tmp_path, "", f"training.output={tmp_path / 'mine'}"), resume=False)
    with pytest.raises(ConfigError, match="is not an empty folder"):
        claim_run_folder(read(tmp_path, "", f"training.output={tmp_path / 'mine' / 'notes.txt'}"), resume=False)


def test_the_other_processes_of_a_run_use_the_folder_that_the_first_one_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read(tmp_path, "", f"training.output={tmp_path / 'out'}")
    claim_run_folder(config, resume=False)
    monkeypatch.setenv("RANK", "1")
    assert claim_run_folder(config, resume=False) == tmp_path / "out"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    claim_run_folder(read(tmp_path, "", f"training.output={tmp_path / 'out'}"), resume=False)


def test_a_supervised_run_is_resumed_by_its_folder(tmp_path: Path) -> None:
    output = f"training.output={tmp_path / 'out'}"
    claim_run_folder(read(tmp_path, "", output), resume=False, part="sft")
    named = read(tmp_path, "", output, f"sft.output={tmp_path / 'out'}")
    assert claim_run_folder(named, resume=True, part="sft") == tmp_path / "out"


def test_resuming_needs_the_same_run(tmp_path: Path) -> None:
    output = f"training.output={tmp_path / 'out'}"
    with pytest.raises(ConfigError, match=r"--resume: .* holds no run"):
        claim_run_folder(read(tmp_path, "", output), resume=True)
    claim_run_folder(read(tmp_path, "", output), resume=False)
    with pytest.raises(ConfigError, match=r"other settings: training.learning_rate was 5e-07, is 0.1\. Resume it"):
        claim_run_folder(read(tmp_path, "", output, "training.learning_rate=0.1"), resume=True)
    longer = read(tmp_path, "", output, "training.steps=412", "evaluation.samples=2", "training.threads=1")
    claim_run_folder(longer, resume=True)
    assert RunConfig.read(tmp_path / "out" / "config.toml").training.steps == 412
