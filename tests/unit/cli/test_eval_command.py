"""``calibadv eval`` through the real command, with a scripted policy in place of the model."""

import json

import pytest

import calibadv.training.load
from calibadv.cli.main import main
from calibadv.config import RunConfig, claim_run_folder
from calibadv.errors import RetrieverError
from calibadv.retrieval import BM25Retriever
from calibadv.rollout import CharTokenizer, ScriptedPolicy
from calibadv.storage import read_trajectories

SEARCH = "hm</think><search>capital of France</search>"
RIGHT = "ok</think><answer>Paris</answer>"
WRONG = "ok</think><answer>Rome</answer>"


@pytest.fixture
def script(monkeypatch):
    """Replaces the model by a script; returns what was loaded."""
    loaded = []

    def install(script):
        def load_policy(config, *, threads=None):
            loaded.append(config.path)
            tokenizer = CharTokenizer()
            return ScriptedPolicy(script, tokenizer=tokenizer), tokenizer

        monkeypatch.setattr(calibadv.training.load, "load_policy", load_policy)
        return loaded

    return install


def half_right(episode, turn):
    return (SEARCH, RIGHT if episode % 2 else WRONG)[turn]


def test_an_evaluation_prints_a_table_and_writes_everything(config_file, script, capsys):
    script(half_right)
    assert main(["eval", str(config_file), "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "geo" in out
    assert "50.0 [" in out
    folder = config_file.parent / "out"
    assert json.loads((folder / "results.json").read_text())["geo"]["metrics"]["f1"]["mean"] == 0.5
    assert len(list(read_trajectories(folder / "trajectories.jsonl.gz"))) == 4
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {"model", "index", "prompt", "questions", "config", "versions"}
    assert len(manifest["model"]["sha256"]) == 64
    assert list(manifest["questions"]) == ["geo.test.jsonl"]
    assert manifest["index"]["num_documents"] == 3


def test_options_change_what_is_played(config_file, script, capsys):
    script(half_right)
    arguments = ["--limit", "2", "--samples", "3", "--split", "train", "--json", "--set", "rollout.top_k=1"]
    assert main(["eval", str(config_file), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)["geo"]
    assert (result["num_questions"], result["num_trajectories"]) == (2, 6)
    assert (config_file.parent / "runs" / "run-eval-train-1" / "results.json").exists()
    assert main(["eval", str(config_file), *arguments]) == 0
    assert (config_file.parent / "runs" / "run-eval-train-2" / "results.json").exists()


def test_a_run_is_evaluated_with_what_it_trained(config_file, script, capsys):
    loaded = script(half_right)
    folder = claim_run_folder(RunConfig.read(config_file), resume=False)
    assert main(["eval", str(folder)]) == 2
    assert "holds no trained model yet; --checkpoint base" in capsys.readouterr().err
    (folder / "checkpoint-mine").mkdir()
    for name in ("checkpoint-8", "checkpoint-20"):
        (folder / name).mkdir()
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name / file).write_text("{}")
    assert main(["eval", str(folder)]) == 0
    assert main(["eval", str(folder), "--checkpoint", "checkpoint-8"]) == 0
    assert main(["eval", str(folder), "--checkpoint", "base"]) == 0
    (folder / "checkpoint-20").rename(folder / "model")
    assert main(["eval", str(folder)]) == 0
    assert [path.name for path in loaded] == ["checkpoint-20", "checkpoint-8", "model", "model"]
    assert loaded[2] == config_file.parent / "model"
    assert sorted(path.name for path in folder.glob("eval-*")) == [f"eval-test-{n}" for n in (1, 2, 3, 4)]
    capsys.readouterr()
    assert main(["eval", str(folder), "--checkpoint", "checkpoint-9"]) == 2
    assert "--checkpoint checkpoint-9: no such folder" in capsys.readouterr().err


def test_a_model_without_the_tags_is_told_in_plain_words(config_file, script, capsys):
    script(lambda episode, turn: "I like trains.")
    assert main(["eval", str(config_file), "--out", "out"]) == 0
    assert "No rollout has a valid format" in capsys.readouterr().err


def test_a_corpus_smaller_than_top_k_is_refused(config_file, script, capsys):
    script(half_right)
    assert main(["eval", str(config_file), "--set", "rollout.top_k=9", "--out", "out"]) == 2
    assert "rollout.top_k must be <= the number of documents in the corpus (3), got 9" in capsys.readouterr().err


def test_an_output_folder_in_use_is_refused(config_file, script, capsys):
    script(half_right)
    assert main(["eval", str(config_file), "--out", "out"]) == 0
    assert main(["eval", str(config_file), "--out", "out"]) == 2
    assert "is not empty; name another one with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "0", "--samples", "2"], "evaluation.samples must be 1 at temperature 0, got 2"),
        (["--temperature", "-1"], "evaluation.temperature must be >= 0"),
        (["--set", "data.test=[]"], "data.test is empty"),
        (["--set", "data.test=['absent.jsonl']"], "absent.jsonl: no such file"),
        (["--set", "retrieval.corpus=absent.jsonl"], "absent.jsonl: no such file"),
        (["--checkpoint", "absent"], "--checkpoint absent: no such folder"),
    ],
)
def test_bad_input_is_one_clear_line(config_file, script, arguments, message, capsys):
    script(half_right)
    assert main(["eval", str(config_file), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_a_retriever_that_dies_keeps_what_was_finished(config_file, script, monkeypatch, capsys):
    data_sets = [config_file.parent / name for name in ("geo.test.jsonl", "more.test.jsonl")]
    data_sets[1].write_bytes(data_sets[0].read_bytes())
    script(half_right)
    search, calls = BM25Retriever.search, []

    def die_later(self, queries, k):
        calls.extend(queries)
        if len(calls) > 1:  # equal queries of one data set are searched once
            raise RetrieverError("connection refused")
        return search(self, queries, k)

    monkeypatch.setattr(BM25Retriever, "search", die_later)
    override = "data.test=['geo.test.jsonl', 'more.test.jsonl']"
    assert main(["eval", str(config_file), "--set", override, "--out", "out"]) == 3
    assert "4 finished rollouts were kept in" in capsys.readouterr().err
    assert len(list(read_trajectories(config_file.parent / "out" / "finished.jsonl.gz"))) == 4
