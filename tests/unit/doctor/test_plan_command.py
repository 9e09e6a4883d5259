"""``calibadv doctor CONFIG --gpus N --gpu KIND``: on a machine without a GPU, without data and without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibadv.cli.main import main

CONFIGS = Path(__file__).parents[3] / "configs"


def doctor(config: str, *arguments: str) -> int:
    return main(["doctor", str(CONFIGS / config), *arguments])


def test_a_plan_says_what_fits_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("qwen2.5-7b.toml", "--gpus", "8", "--gpu", "h100") == 0
    out = capsys.readouterr().out
    assert "Qwen/Qwen2.5-7B: 7,615.6 M parameters (published architecture)" in out
    (whole,) = [line for line in out.splitlines() if line.startswith("DDP, colocated vLLM")]
    assert whole.endswith(" no")
    assert "Best that fits: FSDP2, colocated vLLM" in out
    assert "GPU hours" in out
    assert "update_mfu=0.3" in out


def test_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--gpus", "8", "--gpu", "h100", "--nodes", "2", "--sharding", "fsdp2", "--assume", "searches=4"]
    assert doctor("qwen2.5-7b.toml", *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    assert found["cluster"]["nodes"] == 2
    assert found["assumptions"]["searches"] == 4
    assert [entry["name"] for entry in found["layouts"]] == ["FSDP2, colocated vLLM", "FSDP2, vLLM on 4"]
    for entry in found["layouts"]:
        seconds = entry["seconds"]
        parts = sum(seconds[part] for part in ("rollout", "logprobs", "update", "communicate", "sync"))
        assert seconds["total"] == pytest.approx(parts)
        assert entry["memory"]["total"] < found["room"]


def test_what_does_not_fit_is_a_blocker_that_names_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("qwen2.5-7b.toml", "--gpus", "1", "--gpu", "a100") == 1
    captured = capsys.readouterr()
    assert "Only an adapter fits (set lora.rank)" in captured.out
    assert "training all weights of Qwen/Qwen2.5-7B does not fit on 1 x A100" in captured.err
    assert doctor("qwen2.5-7b.toml", "--gpus", "1", "--gpu", "l4") == 1
    assert "Nothing fits. Lower training.micro_batch_tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpus", "8"], "--gpus needs --gpu"),
        (["--gpu", "h100"], "a plan needs --gpus"),
        (["--gpus", "8", "--gpu", "tpu"], "--gpu tpu: no such GPU"),
        (["--gpus", "8", "--gpu", "h100", "--assume", "speed=1"], "--assume: speed is not a setting"),
        (["--gpus", "8", "--measured", "absent.json"], "--measured absent.json"),
        (["--sharding", "fsdp2"], "--sharding is for a plan"),
        (["--gpus", "8", "--gpu", "h100", "--probe", "4"], "--probe is for the checks on this machine"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor("qwen2.5-7b.toml", *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
