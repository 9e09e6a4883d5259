"""``calibadv eval`` through the real command, with a scripted policy in place of the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from calibadv.cli.main import main
from calibadv.config import RunConfig
from calibadv.config.run_folder import claim_run_folder
from calibadv.data.trajectory_files import read_trajectories
from calibadv.models.config import ModelConfig
from calibadv.runs.evaluate import identity
from calibadv.training.checkpoint_files import seal_checkpoint

SEARCH = "hm</think><search>capital of France</search>"
RIGHT = "ok</think><answer>Paris</answer>"
WRONG = "ok</think><answer>Rome</answer>"


def half_right(episode: int, turn: int) -> str:
    return (SEARCH, RIGHT if episode % 2 else WRONG)[turn]


def test_an_evaluation_prints_a_table_and_writes_everything(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    script(half_right)
    assert main(["eval", str(config_file), "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "geo" in out
    assert "0.500 [" in out
    folder = config_file.parent / "out"
    assert json.loads((folder / "results.json").read_text())["geo"]["metrics"]["f1"]["mean"] == 0.5
    assert len(list(read_trajectories(folder / "trajectories.jsonl.gz"))) == 4
    manifest = json.loads((folder / "manifest.json").read_text())
    what = {"model", "index", "prompt", "questions", "sampling", "rollout", "score", "config", "versions"}
    assert set(manifest) == what
    assert len(manifest["model"]["sha256"]) == len(manifest["prompt"]["sha256"]) == 64
    assert [path.rpartition("/")[2] for path in manifest["questions"]["files"]] == ["geo.test.jsonl"]
    assert (manifest["questions"]["number"], manifest["sampling"]["samples"]) == (4, 1)
    assert manifest["index"]["num_documents"] == 3
    assert manifest["rollout"]["top_k"] == 2
    assert not (folder / "finished.jsonl").exists()


def test_options_change_what_is_played(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    script(half_right)
    arguments = ["--limit", "2", "--samples", "3", "--split", "train", "--json", "--set", "rollout.top_k=1"]
    assert main(["eval", str(config_file), *arguments]) == 0
    result = json.loads(capsys.readouterr().out)["geo"]
    assert (result["num_questions"], result["num_trajectories"]) == (2, 6)
    assert (config_file.parent / "runs" / "run-eval-train-1" / "results.json").exists()
    assert main(["eval", str(config_file), *arguments]) == 0
    assert (config_file.parent / "runs" / "run-eval-train-2" / "results.json").exists()


def test_a_run_is_evaluated_with_what_it_trained(
    config_file: Path,
    script: Callable[..., list[ModelConfig]],
    write_model: Callable[[Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded = script(half_right)
    folder = claim_run_folder(RunConfig.read(config_file), resume=False)
    assert main(["eval", str(folder)]) == 2
    assert "holds no trained model yet; --checkpoint base" in capsys.readouterr().err
    (folder / "checkpoint-mine").mkdir()
    for name in ("checkpoint-8", "checkpoint-20"):
        write_model(folder / name)
        for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name / file).write_text("{}")
        state = {"global_step": int(name.removeprefix("checkpoint-"))}
        (folder / name / "trainer_state.json").write_text(json.dumps(state))
        seal_checkpoint(folder / name)
    write_model(folder / "checkpoint-30")  # a kill came while it was written
    assert main(["eval", str(folder)]) == 0
    assert main(["eval", str(folder), "--checkpoint", "checkpoint-8"]) == 0
    assert main(["eval", str(folder), "--checkpoint", "base"]) == 0
    (folder / "checkpoint-20").rename(folder / "model")
    assert main(["eval", str(folder)]) == 0
    assert [Path(config.path).name for config in loaded] == ["checkpoint-20", "checkpoint-8", "model", "model"]
    assert loaded[2].path == config_file.parent / "model"
    assert sorted(path.name for path in folder.glob("eval-*")) == [f"eval-test-{n}" for n in (1, 2, 3, 4)]
    capsys.readouterr()
    assert main(["eval", str(folder), "--checkpoint", "checkpoint-9"]) == 2
    assert "--checkpoint checkpoint-9: no such folder" in capsys.readouterr().err


def test_a_model_without_the_tags_is_told_in_plain_words(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    script(lambda episode, turn: "I like trains.")
    assert main(["eval", str(config_file), "--out", "out"]) == 0
    assert "No rollout has a valid format" in capsys.readouterr().err


def test_a_corpus_smaller_than_top_k_is_refused(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    script(half_right)
    assert main(["eval", str(config_file), "--set", "rollout.top_k=9", "--out", "out"]) == 2
    assert "rollout.top_k must be <= the number of documents in the corpus (3), got 9" in capsys.readouterr().err


def test_an_output_folder_in_use_is_refused(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = script(half_right)
    (config_file.parent / "out").mkdir()
    (config_file.parent / "out" / "notes.txt").write_text("mine")
    assert main(["eval", str(config_file), "--out", "out"]) == 2
    assert "is not empty; name another one with --out" in capsys.readouterr().err
    assert not loaded


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_table_can_be_pasted_elsewhere(
    config_file: Path, script: Callable[..., list[ModelConfig]], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script(half_right)
    assert main(["eval", str(config_file), "--out", "out", "--format", form]) == 0
    out = capsys.readouterr().out
    assert {"markdown": "| geo | 4 | 0.500 [", "latex": "geo & 4 & 0.500 ["}[form] in out
    assert "Written to" not in out


def test_a_model_is_evaluated_without_a_config(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = script(half_right)
    arguments = ["eval", "./model", "--data", "geo.test.jsonl", "--retriever", "corpus.jsonl", "--top-k", "2"]
    arguments += ["--engine", "scripted:engine", "--set", "rollout.prompt=question"]
    assert main([*arguments, "--out", "out"]) == 0
    assert str(loaded[0].path).endswith("model")
    manifest = json.loads((config_file.parent / "out" / "manifest.json").read_text())
    assert manifest["sampling"]["temperature"] == 0, "one sample of a model is greedy unless said otherwise"
    assert main([*arguments, "--samples", "3", "--out", "sampled"]) == 0
    assert "pass@2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./model"], "./model is taken for a model, which needs --data and --retriever"),
        (["./model", "--data", "geo.test.jsonl"], "needs --retriever"),
        (["."], "neither the folder of a run (config.toml) nor that of a model"),
        (["model", "--data", "absent.jsonl", "--retriever", "corpus.jsonl"], "--data absent.jsonl: no such file"),
        (
            ["model", "--data", "absent", "--source", ".", "--retriever", "corpus.jsonl"],
            "--data absent is no file or folder, so it is taken for a data set: . has no data set absent",
        ),
        (["model", "--data", "geo.test.jsonl", "--retriever", "absent"], "--retriever absent: no such file or folder"),
        (["./model", "--data", "geo.test.jsonl", "--retriever", "model"], "holds neither an index (manifest.json) nor"),
        (["./model", "--data", "geo", "--source", ".", "--datasets", "nq", "--retriever", "corpus.jsonl"],
         "--datasets nq: not in the files, which hold geo"),
        (["./model", "--data", "nq", "--source", ".", "--retriever", "corpus.jsonl"], "has no data set nq"),
    ],
)  # fmt: skip
def test_what_a_model_needs_is_said(
    config_file: Path,
    script: Callable[..., list[ModelConfig]],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(half_right)
    assert main(["eval", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_data_can_be_a_folder_files_or_names(
    config_file: Path, script: Callable[..., list[ModelConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    script(half_right)
    root = config_file.parent
    (root / "qa").mkdir()
    (root / "qa" / "nq.test.jsonl").write_bytes((root / "geo.test.jsonl").read_bytes())
    (root / "qa" / "musique.jsonl").write_bytes((root / "geo.test.jsonl").read_bytes())
    common = ["eval", str(config_file), "--json"]
    for number, (data, found) in enumerate(
        {
            ("qa",): {"nq", "musique"},
            ("nq,musique", "--source", "qa"): {"nq", "musique"},
            ("qa/nq.test.jsonl,geo.test.jsonl",): {"nq", "geo"},
            ("qa", "--datasets", "nq"): {"nq"},
        }.items()
    ):
        assert main([*common, "--data", *data, "--out", f"out{number}"]) == 0
        assert set(json.loads(capsys.readouterr().out)) - {"all", "macro"} == found


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
def test_bad_input_is_one_clear_line(
    config_file: Path,
    script: Callable[..., list[ModelConfig]],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script(half_right)
    assert main(["eval", str(config_file), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_engine_and_address_reach_the_model_settings(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = ["--engine", "openai", "--model-url", "http://127.0.0.1:9/v1", "--set", "rollout.prompt=question"]
    data = ["--data", "geo.test.jsonl", "--retriever", "corpus.jsonl", "--top-k", "2"]
    assert main(["eval", "some-model", *served, *data, "--set", "model.retries=0"]) == 4
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_a_served_model_is_known_by_its_name_and_address() -> None:
    model = {"path": "some-model", "engine": "openai", "url": "http://127.0.0.1:9/v1"}
    config = RunConfig.from_mapping({"model": model, "retrieval": {"corpus": "corpus.jsonl"}})
    assert identity(config) == {"name": "some-model", "url": "http://127.0.0.1:9/v1", "engine": "openai"}


@pytest.fixture
def lab(config_file: Path, script: Callable[..., list[ModelConfig]], write_model: Callable[[Path], Path]) -> Path:
    """A lab with two arms, of which CalibAdv was trained with two seeds, and one run that has not started."""
    folder = config_file.parent / "runs" / "lab"
    entries = []
    for name, seed in (("grpo", 0), ("calibadv", 0), ("calibadv", 1), ("grpo", 1)):
        run = folder / f"{name}-seed{seed}"
        entries.append({"name": name, "seed": seed, "run_dir": run.name})
        if (name, seed) != ("grpo", 1):
            claim_run_folder(RunConfig.read(config_file, overrides=[f"training.output={run}"]), resume=False)
            write_model(run / "model")
    (folder / "results.json").write_text(json.dumps({"arms": entries, "default_arm": "calibadv"}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        ([], "calibadv-seed0"),
        (["--arm", "grpo"], "grpo-seed0"),
        (["--arm", "calibadv-seed1"], "calibadv-seed1"),
    ],
)
def test_a_lab_stands_for_the_run_of_an_arm(
    lab: Path, arguments: list[str], run: str, script: Callable[..., list[ModelConfig]]
) -> None:
    loaded = script(half_right)
    assert main(["eval", "runs/lab", *arguments]) == 0
    assert loaded[0].path == lab / run / "model"
    assert (lab / run / "eval-test-1" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["eval", "runs/lab", "--arm", "ppo"],
            "runs/lab is a lab without an arm ppo; choose with --arm: grpo, calibadv",
        ),
        (["eval", "run.toml", "--arm", "grpo"], "--arm grpo: run.toml is not the folder of a lab"),
        (["trajectories", "runs/lab", "--arm", "ppo"], "choose with --arm: grpo, calibadv"),
        (["ask", "who?", "--model", "runs/lab", "--arm", "ppo"], "choose with --arm: grpo, calibadv"),
        (["report", "runs/lab", "--arm", "ppo"], "choose with --arm: grpo, calibadv"),
    ],
)
def test_an_arm_that_is_not_there_is_answered_with_those_that_are(
    lab: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
