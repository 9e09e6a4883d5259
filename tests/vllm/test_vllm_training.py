"""Training with vLLM in the process, for real: the lab's policy on vLLM for CPUs, from Python and by the command.

Run by ``scripts/test-vllm``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import calibadv
from calibadv.config import RunConfig
from calibadv.data.run_files import EVALUATIONS, METRICS, MODEL, read_metrics, trajectory_file
from calibadv.data.trajectory_files import read_trajectories
from calibadv.errors import ConfigError, EngineFailed, RetrieverError, RetrieverUnavailable
from calibadv.models.config import ModelConfig
from calibadv.models.open_policy import open_policy
from calibadv.retrieval.base import Hit
from calibadv.retrieval.open import opened_retriever
from calibadv.rollout import SamplingParams
from calibadv.training.checkpoints import last_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]

TRAINING = {
    "steps": 6, "questions_per_batch": 4, "num_rollouts": 4, "mini_batches": 2, "eval_every": 4,
    "learning_rate": 2e-3, "lr_schedule": "constant", "warmup_steps": 0, "save_every": 2,
    "max_batches_without_signal": 6,
}  # fmt: skip
MODEL_SECTION = {"engine": "vllm", "engine_args": ["enforce_eager=true"], "max_context": 512, "max_rows": 8}
ROUNDING = 5e-4
"""Largest difference of log-probabilities in float32."""

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def make_config(tmp_path: Path, lab_run: Callable[..., dict[str, Any]]) -> MakeConfig:
    """``make_config(training={...})``: a run of a few batches on a small world."""

    def make(**given: dict[str, Any]) -> RunConfig:
        training = TRAINING | {"output": str(tmp_path / "run")} | given.pop("training", {})
        model = MODEL_SECTION | given.pop("model", {})
        folder = tmp_path / "world"
        folder.mkdir(exist_ok=True)
        sections = lab_run(folder, training=training, model=model, evaluation={"limit": 4}, **given)
        sections["data"]["test"] = [str(folder / "questions.test.jsonl")]
        return RunConfig.from_mapping(sections)

    return make


def test_a_run_writes_with_the_weights_of_each_batch(make_config: MakeConfig) -> None:
    """The weights are handed over once after each change, and what vLLM samples is what the trainer scores.

    The weights move far in these steps: had vLLM kept those of the batch before, the gap would be far larger.
    """
    config = make_config()
    run = calibadv.train(config)
    lines = read_metrics(run / METRICS)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING
    assert all(line["correction_min"] > 0.999 and line["correction_max"] < 1.001 for line in lines)
    # Before batches 1 and 2, before the evaluation at step 4, whose weights batch 3 is played with, and at the end.
    assert [line["weight_syncs"] for line in lines] == [1, 2, 1]
    assert all(line["seconds_sync"] < line["seconds_step"] for line in lines)
    assert [line["step"] for line in read_metrics(run / EVALUATIONS)] == [0, 4, 6]
    base, trained = (first_logprobs(path) for path in (config.model.path, run / MODEL))
    assert max(abs(a - b) for a, b in zip(base, trained, strict=True)) > 20 * ROUNDING


def first_logprobs(folder: Path | str) -> list[float]:
    """Log-probabilities of a greedy turn of the model itself."""
    with open_policy(ModelConfig(path=folder, device="cpu")) as opened:
        prompt = opened.tokenizer.encode("Question: who wrote it?")
        queue = OneRequest(prompt)
        (completion,) = opened.policy.generate(queue)
    return list(completion.logprobs)[:4]


class OneRequest:
    def __init__(self, prompt: list[int]) -> None:
        from calibadv.rollout import GenerationRequest

        params = SamplingParams(temperature=0, max_tokens=4, stop=())
        self.left = [GenerationRequest(episode=0, token_ids=prompt, params=params, seed=0)]

    def take(self, room: int, *, idle: bool) -> list[Any]:
        given, self.left = self.left, []
        return given

    def ended(self) -> list[int]:
        return []


def test_the_recorded_log_probabilities_are_those_of_the_checkpoint_before(make_config: MakeConfig) -> None:
    """A batch's records against one forward pass of a fresh load of the weights that it was played with."""
    import torch
    from transformers import AutoModelForCausalLM

    config = make_config(training={"steps": 4, "eval_every": 0})
    run = calibadv.train(config)
    model: Any = AutoModelForCausalLM.from_pretrained(run / "checkpoint-2", dtype=torch.float32)
    played = list(read_trajectories(trajectory_file(run, 4)))
    assert len(played) == 16
    for record in played[:6]:
        trajectory = record.trajectory
        ids = list(trajectory.prompt_token_ids)
        for turn in trajectory.turns:
            start = len(ids)
            ids += turn.token_ids
            with torch.inference_mode():
                logp = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            fresh = [float(logp[start - 1 + n, token]) for n, token in enumerate(turn.token_ids)]
            assert fresh == pytest.approx(list(turn.logprobs), abs=ROUNDING)
            ids += turn.observation_token_ids


def test_an_adapter_is_merged_for_vllm_and_left_alone_in_the_model(make_config: MakeConfig) -> None:
    config = make_config(
        lora={"rank": 4, "alpha": 16}, training={"eval_every": 0, "learning_rate": 2e-2}, algorithm={"name": "grpo"}
    )
    lines = read_metrics(calibadv.train(config) / METRICS)
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING
    assert lines[-1]["logprob_gap_max"] > 0


def test_without_the_new_weights_the_gap_is_large_and_said(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fault that the metric is for: an engine that never takes the weights over."""
    from calibadv.training.overrides.colocated_vllm import ColocatedGeneration

    monkeypatch.setattr(ColocatedGeneration, "weights_changed", lambda self: None)
    lines = read_metrics(calibadv.train(make_config(training={"eval_every": 0})) / METRICS)
    assert lines[-1]["logprob_gap"] > 20 * ROUNDING
    assert sum("training.engine_gap_alarm" in record.getMessage() for record in caplog.records) >= 1


class Recorded:
    """vLLM with a diary, and a sleep mode that the one for CPUs does not have."""

    def __init__(self, diary: list[str], **arguments: Any) -> None:
        from vllm import LLM

        assert arguments.pop("enable_sleep_mode")
        self.diary = diary
        self.llm = LLM(**arguments)
        self.llm_engine = self.llm.llm_engine
        self.asleep = False

    def sleep(self, level: int) -> None:
        assert level == 2
        assert not self.asleep
        assert not self.llm_engine.has_unfinished_requests()
        self.asleep = True
        self.diary.append("sleep")

    def wake_up(self, tags: list[str]) -> None:
        self.asleep = False
        self.diary.append(f"wake {' '.join(tags)}")

    def reset_prefix_cache(self) -> bool:
        assert not self.asleep
        self.diary.append("reset")
        return bool(self.llm.reset_prefix_cache())


@contextmanager
def recorded_llm(diary: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from calibadv.training import trainer
    from calibadv.training.overrides import colocated_vllm

    monkeypatch.setattr(
        trainer, "colocated", lambda args: colocated_vllm.colocated(args, make_llm=lambda **kw: Recorded(diary, **kw))
    )
    yield


def test_each_batch_wakes_the_engine_once_and_lets_it_sleep_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary: list[str] = []
    config = make_config(
        model={"engine_args": ["enforce_eager=true", "enable_sleep_mode=true"]}, training={"eval_every": 0}
    )
    with recorded_llm(diary, monkeypatch):
        lines = read_metrics(calibadv.train(config) / METRICS)
    turns = sum(line["turns"] for line in lines)
    assert turns > 3
    assert diary == ["sleep", *["wake weights", "reset", "wake kv_cache", "sleep"] * 3]
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING


class Dying:
    """Answers until a batch is complete, then never again."""

    def __init__(self, inner: Any, *, metrics: Path) -> None:
        self.inner = inner
        self.metrics = metrics

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if self.metrics.exists():
            raise RetrieverError("gone", is_transient=False)
        found: list[list[Hit]] = self.inner.search(queries, k)
        return found


def test_a_run_whose_retriever_dies_saves_and_resumes(make_config: MakeConfig) -> None:
    config = make_config(training={"eval_every": 0, "save_every": 6})
    with opened_retriever(config.retrieval, top_k=2, given=None) as inner:
        run = config.training.output
        with pytest.raises(RetrieverUnavailable):
            calibadv.train(config, retriever=Dying(inner, metrics=run / METRICS))
        saved = last_checkpoint(run)
        before = read_metrics(run / METRICS)
        assert saved is not None
        assert [line["step"] for line in before] == [2]
        calibadv.train(config, resume=True, retriever=inner)
    lines = read_metrics(run / METRICS)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[: len(before)] == before
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "calibadv", "train", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], metrics: Path, *, lines: int) -> None:
    while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") >= lines):
        assert process.poll() is None, process.communicate()[1][-4000:]
        time.sleep(0.05)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_ended_resumes_to_the_end(make_config: MakeConfig, tmp_path: Path, signum: int) -> None:
    config = make_config(training={"steps": 8, "eval_every": 0})
    path, run = tmp_path / "run.toml", config.training.output
    path.write_text(config.to_toml(), encoding="utf-8")
    process = command(path)
    wait_for(process, run / METRICS, lines=2)
    os.kill(process.pid, signum)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode in (-signum, 128 + signum), errors[-4000:]
    assert "Traceback" not in errors
    assert not (run / MODEL).exists()
    process = command("--resume", run)
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 0, errors[-4000:]
    assert "Traceback" not in errors
    lines = read_metrics(run / METRICS)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING
    assert (run / MODEL).is_dir()


@pytest.mark.parametrize("size", [1, 2])
def test_two_processes_train_with_an_engine_each_or_one_that_they_share(
    make_config: MakeConfig, tmp_path: Path, size: int
) -> None:
    """With a shared engine, a process that added another request, or at another time, would hang or sample nonsense."""
    engine_args = ["enforce_eager=true", f"tensor_parallel_size={size}"]
    config = make_config(model={"engine_args": engine_args}, training={"steps": 4, "eval_every": 4})
    path, run = tmp_path / "run.toml", config.training.output
    path.write_text(config.to_toml(), encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "calibadv", "train", str(path)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    lines = read_metrics(run / METRICS)
    assert [line["step"] for line in lines] == [2, 4]
    assert max(line["logprob_gap_max"] for line in lines) < ROUNDING
    assert [line["step"] for line in read_metrics(run / EVALUATIONS)] == [0, 4]


# Bad input: one clear line, before anything is paid for.


def test_an_unsupported_version_is_refused(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibadv.rollout.policies import vllm

    monkeypatch.setattr(vllm, "TRAINABLE_VERSIONS", ("0.1.0", "0.2.0"))
    with pytest.raises(ConfigError, match=r"trains with vLLM 0\.1\.0 to 0\.2\.0, but .* is installed: pip install"):
        calibadv.train(make_config())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_argument=1"], r"model\.engine_args: vLLM does not know"),
        (["seed=3"], r"model\.engine_args: seed cannot be set in training"),
        (["max_model_len=100000"], r"vLLM cannot start .*model\.max_context"),
    ],
)
def test_arguments_that_vllm_does_not_take_are_named(
    make_config: MakeConfig, arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        calibadv.train(make_config(model={"engine_args": ["enforce_eager=true", *arguments]}))


def test_too_little_memory_names_the_setting(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibadv.training import trainer
    from calibadv.training.overrides import colocated_vllm

    def make_llm(**arguments: Any) -> Any:
        raise ValueError(
            "Free memory on device (9.1/79.2 GiB) on startup is less than desired "
            "GPU memory utilization (0.3, 23.8 GiB)."
        )

    monkeypatch.setattr(trainer, "colocated", lambda args: colocated_vllm.colocated(args, make_llm=make_llm))
    with pytest.raises(ConfigError, match=r"beside the model.*9\.1/79\.2 GiB.*gpu_memory_utilization=.*engine_args"):
        calibadv.train(make_config())


def test_weights_that_fail_to_load_end_the_run_with_a_checkpoint(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calibadv.training.overrides.colocated_vllm import ColocatedGeneration

    config = make_config(training={"eval_every": 0, "save_every": 6})
    real = ColocatedGeneration._iter_named_params
    calls: list[int] = []

    def broken(self: Any) -> Iterator[Any]:
        calls.append(1)
        for name, value in real(self):
            yield ("no.such.weight" if len(calls) == 2 else name), value

    monkeypatch.setattr(ColocatedGeneration, "_iter_named_params", broken)
    with pytest.raises(EngineFailed, match="cannot take over the weights"):
        calibadv.train(config)
    saved = last_checkpoint(config.training.output)
    assert saved is not None
    assert json.loads((saved / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 2


@pytest.mark.parametrize("kind", ["gemma3", "mistral", "qwen3_moe"])
def test_sliding_windows_and_mixtures_of_experts_train(make_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    make_tiny(kind, folder)
    config = make_config(
        model={"path": str(folder)},
        training={"steps": 4, "mini_batches": 1, "save_every": 4, "eval_every": 0, "max_batches_without_signal": 99},
        reward={"function": f"{__name__}:length_reward"},
        algorithm={"name": "grpo"},
    )
    lines = read_metrics(calibadv.train(config) / METRICS)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert max(line["logprob_gap"] for line in lines) < ROUNDING
    assert max(line["logprob_gap_max"] for line in lines) < 2 * ROUNDING
    assert all(line["grad_norm"] > 0 for line in lines)


def length_reward(trajectory: Any) -> float:
    """Something that differs between rollouts of a model that has learned nothing."""
    return float(sum(len(turn.token_ids) for turn in trajectory.turns) % 7) / 7


def make_tiny(kind: str, folder: Path) -> None:
    """Random weights of a kind, with the lab's tokenizer and a window shorter than the contexts."""
    import torch
    from transformers import (
        AutoTokenizer,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        MistralConfig,
        MistralForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    from calibadv.lab import load_policy

    tokenizer: Any = AutoTokenizer.from_pretrained(load_policy())
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any
    if kind == "gemma3":
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(
                **shared,
                sliding_window=16,
                layer_types=["sliding_attention", "full_attention"],
                query_pre_attn_scalar=32,
            )
        )
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(**shared, sliding_window=16))
    else:
        model = Qwen3MoeForCausalLM(
            Qwen3MoeConfig(**shared, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
        )
    model.to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
